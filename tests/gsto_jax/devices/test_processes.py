"""Evaluation by several processes equals that of one process."""

import json
import os

import jax
import numpy as np
import pytest

from gsto_jax.devices.mesh import make_mesh
from tests import program
from tests.gsto_jax.evaluation_process import CLASSES, PROTOCOLS, SETS, Images, run


def processes(folder, cases, count, devices):
    """Returns the merged results of each case by `count` processes."""
    command = ["-m", "tests.gsto_jax.evaluation_process", json.dumps(cases), devices]
    command += [program.free_port(), count]
    paths = [folder / f"{index}.npz" for index in range(count)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": program.QUICK}
    started = [
        program.start_python([*command, index, path], environment=environment)
        for index, path in enumerate(paths)
    ]
    ends = program.finish(started)
    assert not any(status for status, *_ in ends), "\n".join(errors for *_, errors in ends)
    merged = [{} for _ in cases]
    for path in paths:
        with np.load(path) as results:
            for key, value in results.items():
                number, _, name = key.partition(" ")
                if not name.startswith("image "):
                    np.testing.assert_array_equal(merged[int(number)].get(name, value), value)
                else:
                    assert name not in merged[int(number)], "an image was counted twice"
                merged[int(number)][name] = value
    return merged


def one_process(*case, devices=1):
    return run(*case, make_mesh(jax.devices()[:devices]))


def assert_equal(result, expected):
    assert result.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(result[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def fixed():
    """Returns the results of one process with batches of one image."""
    return {protocol: one_process("fixed", "small", protocol, 1) for protocol in PROTOCOLS}


def test_counts_match_predictions(fixed):
    source = Images(SETS["small"])
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for index in range(len(source)):
        prediction, label = source.prediction(index), source[index]["label"]
        np.testing.assert_array_equal(fixed["plain"][f"image {index}"], prediction)
        np.add.at(expected, (label[label < 255], prediction[label < 255]), 1)
    np.testing.assert_array_equal(fixed["plain"]["confusion"], expected)
    for result in fixed.values():
        assert result["images"] == len(source)
        assert result["confusion"].sum() == expected.sum()
        assert result["boundary"].min() > 0 and result["instances"].all(axis=1).any()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fixed_predictions_score_the_same_at_any_batch_size(fixed, protocol):
    for batch_size, devices in ((3, 1), (4, 4)):
        result = one_process("fixed", "small", protocol, batch_size, devices=devices)
        assert_equal(result, fixed[protocol])


@pytest.mark.parametrize(
    ("count", "devices"),
    [
        (2, 2),
        pytest.param(3, 1, marks=pytest.mark.slow),
        *(pytest.param(count, 1, marks=pytest.mark.long) for count in (2, 4)),
    ],
)
def test_fixed_predictions_score_the_same_by_several_processes(fixed, tmp_path, count, devices):
    cases = [("fixed", "small", protocol, 2 * count) for protocol in PROTOCOLS]
    for case, result in zip(cases, processes(tmp_path, cases, count, devices), strict=True):
        assert_equal(result, fixed[case[2]])


def pixels_that_differ(result, expected):
    """How many predicted pixels differ, and how many there are."""
    names = [name for name in expected if name.startswith("image ")]
    assert {name for name in result if name.startswith("image ")} == set(names)
    differ = sum(np.count_nonzero(result[name] != expected[name]) for name in names)
    return differ, sum(expected[name].size for name in names)


@pytest.mark.slow
def test_a_network_predicts_the_same_by_two_processes(tmp_path):
    (result,) = processes(tmp_path, [("mini", "small", "sliding", 2)], 2, 1)
    expected = one_process("mini", "small", "sliding", 1)
    assert pixels_that_differ(result, expected)[0] == 0
    assert_equal(result, expected)


@pytest.mark.long
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_at_most_one_pixel_in_a_million_differs(tmp_path, protocol):
    expected = one_process("mini", "large", protocol, 1)
    others = [
        *processes(tmp_path, [("mini", "large", protocol, size) for size in (2, 6)], 2, 1),
        *processes(tmp_path, [("mini", "large", protocol, 4)], 2, 2),
        one_process("mini", "large", protocol, 5),
    ]
    for result in others:
        differ, pixels = pixels_that_differ(result, expected)
        assert pixels > 1e6
        assert differ <= pixels / 1e6
