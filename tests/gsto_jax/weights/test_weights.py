"""Weight files: exact round trips, equal outputs, and damaged files."""

import hashlib
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import GSTOSpec, UserError
from gsto_jax.config import HRNetConfig, ModelConfig
from gsto_jax.models.initialize import initial_variables
from gsto_jax.weights import (
    FORMATS,
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    POSE_FORMAT,
    RESNET_FORMAT,
    WEIGHT_WRITERS,
    detect_format,
    export_format,
    export_weights,
    import_weights,
    option_notes,
    read_state_dict,
    to_state_dict,
)
from tests.gsto_jax.weight_states import (
    GOLDEN,
    assert_equal_arrays,
    load_variables,
    network,
    random_state,
    shapes_of,
)


@pytest.mark.parametrize("suffix", WEIGHT_WRITERS)
def test_hrnet_round_trip_is_exact(tmp_path, suffix):
    model = network()
    state = random_state(model)
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    export_weights(first, load_variables(state, shapes_of(model), HRNET_FORMAT), HRNET_FORMAT)
    imported = import_weights(first, initial_variables(model, 1))
    assert (imported.weight_format, imported.result.initialized) == (HRNET_FORMAT, {})
    count = len(flatten_dict(imported.variables))
    first_line, *_, last_line = imported.summary.splitlines()
    assert first_line == f"{count} of {count} arrays from {first} ({HRNET_FORMAT.name})"
    assert last_line == "  initialized  none"
    assert imported.sha256 == hashlib.sha256(first.read_bytes()).hexdigest()
    export_weights(second, imported.variables, HRNET_FORMAT)
    assert_equal_arrays(read_state_dict(second), state)
    assert first.read_bytes() == second.read_bytes()


def test_released_gsto_keeps_its_effective_gamma_and_its_outputs(golden, tmp_path):
    a, a2 = golden("a"), golden("a2")
    state = {k.removeprefix("state/"): v for k, v in a.items() if k.startswith("state/")}
    state |= {k.removeprefix("weight/"): v for k, v in a2.items() if k.startswith("weight/")}
    released = {f"model.{k}": v for k, v in state.items()} | {
        "model.bn1.num_batches_tracked": np.array(3),
        "loss.criterion.weight": np.ones(19, np.float32),
    }
    assert detect_format(map(str, state)) is GSTO_FORMAT
    model = network(GSTOSpec(), GOLDEN)
    first = load_variables(released, shapes_of(model), GSTO_FORMAT)
    assert min(np.min(v) for p, v in flatten_dict(first).items() if p[-1] == "scale") > 0
    export_weights(tmp_path / "a.pth", first, GSTO_FORMAT)
    written = read_state_dict(tmp_path / "a.pth")
    assert set(written) == {k for k in released if k.startswith("model.")} - {
        "model.bn1.num_batches_tracked",
        *(k for k in released if k.startswith("model.att1.")),
    }
    again = import_weights(tmp_path / "a.pth", shapes_of(model)).variables
    for path, value in flatten_dict(first).items():
        loaded = flatten_dict(again)[path]
        if path[-1] == "scale":
            np.testing.assert_allclose(loaded, value, rtol=1e-6, err_msg="/".join(path))
        else:
            np.testing.assert_array_equal(loaded, value)
    x = jnp.asarray(a["input"].transpose(0, 2, 3, 1), jnp.float32)
    apply = jax.jit(lambda v: model.apply(v, x).logits)
    expected = a2["out_final"].transpose(0, 2, 3, 1)
    for variables in (first, again):
        assert np.abs(np.asarray(apply(variables)) - expected).max() < 1e-5 * np.abs(expected).max()


def test_negative_bn_scales_are_exported_as_equivalent_positive_ones():
    """Compares layers whose convolution has a bias and layers without."""
    rng = np.random.default_rng(0)

    def part(*names):
        conv, bn = ({name: rng.standard_normal(8) for name in names} for names in names)
        kernel = {"kernel": rng.standard_normal((1, 1, 4, 8))}
        stats = {"bn": {"mean": rng.standard_normal(8), "var": rng.uniform(1, 2, 8)}}
        return {"conv": kernel | conv, "bn": bn}, stats

    trees = {"stem1": part((), ("scale", "bias")), "head": part(("bias",), ("scale", "bias"))}
    scale = trees["stem1"][0]["bn"]["scale"]
    scale[:3] = (-0.5, 0, 2e-6)
    variables = {
        "params": {name: tree[0] for name, tree in trees.items()},
        "batch_stats": {name: tree[1] for name, tree in trees.items()},
    }
    state = to_state_dict(variables, GSTO_FORMAT)
    assert (state["model.bn1.weight"] >= 0).all()
    again = load_variables(state, variables, GSTO_FORMAT)
    x = rng.standard_normal((6, 4))

    def apply(tree, name):
        conv, bn = tree["params"][name]["conv"], tree["params"][name]["bn"]
        stats = tree["batch_stats"][name]["bn"]
        y = x @ conv["kernel"][0, 0] + conv.get("bias", 0)
        return (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * bn["scale"] + bn["bias"]

    for name in trees:
        expected, output = apply(variables, name), apply(again, name)
        small = np.abs(variables["params"][name]["bn"]["scale"]) < 1e-5
        np.testing.assert_allclose(output[:, ~small], expected[:, ~small], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(output[:, small], expected[:, small], atol=2e-4)
    assert (again["params"]["stem1"]["bn"]["scale"][:1] > 0).all()


@pytest.mark.parametrize("gtm", [("head_only",) * 3, ("supervised", "none", "none")])
def test_every_gtm_is_detected_as_gsto(tmp_path, gtm):
    """Otherwise import would skip the rule for BN scales."""
    model = network(GSTOSpec(gfm=False, gtm=gtm))
    variables = initial_variables(model, 0)
    path = tmp_path / "weights.safetensors"
    export_weights(path, variables, GSTO_FORMAT)
    assert [x.name for x in tmp_path.iterdir()] == [path.name]
    imported = import_weights(path, jax.tree.map(np.zeros_like, variables))
    assert imported.weight_format is GSTO_FORMAT
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), imported.variables, variables
    )


def test_invalid_paths(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(UserError, match=f"{tmp_path}: .*no weights"):
        read_state_dict(tmp_path)
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(UserError, match=r"torch\.save"):
        read_state_dict(tmp_path / "text.pth")
    with pytest.raises(UserError, match=r"\.safetensors, \.pth"):
        export_weights(tmp_path / "weights.npz", {}, HRNET_FORMAT)


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"

    def attempt(header, data=b"", length=None):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
        return read_state_dict(path)

    def entry(shape, *offsets, dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    good = attempt({"__metadata__": {"format": "pt"}, "x": entry([2], 0, 8)}, bytes(8))
    assert good["x"].shape == (2,)
    for header, data, length in (
        ({}, b"", 2**60),
        (b"{", b"", None),
        ([], b"", None),
        ({"x": entry([2], 0, 8)}, bytes(4), None),
        ({"x": entry([3], 0, 8)}, bytes(8), None),
        ({"x": entry([-2], 0, -8)}, bytes(8), None),
        ({"x": entry([1], 0, 4), "y": entry([1], 0, 4)}, bytes(4), None),
        ({"x": entry([1], 0, 4)}, bytes(8), None),
        ({"x": entry([4], 0, 4, dtype="F8_E4M3")}, bytes(4), None),
        ({"x": {}}, b"", None),
        ({"x": entry([0, 10**30], 0, 0)}, b"", None),
        ({"x": entry([0, 2**62, 2**62], 0, 0)}, b"", None),
        ({"x": entry([1] * 99, 0, 4)}, bytes(4), None),
    ):
        with pytest.raises(UserError, match=rf"^{path} .*damaged"):
            attempt(header, data, length)
    path.write_bytes(b"12")
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(path)


def test_export_formats_and_option_notes():
    assert len({x.name for x in FORMATS}) == len(FORMATS) == 7
    gates = {"gfm": False, "gtm": ("none",) * 3}

    def config(variant="mini", **hrnet):
        return ModelConfig(variant=variant, hrnet=HRNetConfig(**hrnet))

    assert export_format(config()) is GSTO_FORMAT
    assert export_format(config(gfm=False)) is GSTO_FORMAT
    assert export_format(config(**gates)) is HRNET_FORMAT
    assert export_format(config(**gates, head="v1")) is POSE_FORMAT
    assert export_format(config("resnet_mini")) is RESNET_FORMAT
    with pytest.raises(UserError, match=r"model\.hrnet\.attention"):
        export_format(config(**gates, attention="spatial"))
    assert export_format(config(gfm_style="open", gtm_style="open")) is GSTO_FORMAT
    for options in ({"gfm_style": "residual"}, {"gtm_style": "doubled"}):
        (name,) = options
        with pytest.raises(UserError, match=rf"model\.hrnet\.{name} must be released"):
            export_format(config(**options))
        assert name in option_notes(GSTO_FORMAT, config(**options))[0]
    assert export_format(config(**gates, gfm_style="residual")) is HRNET_FORMAT
    assert option_notes(GSTO_FORMAT, config()) == option_notes(HRNET_FORMAT, config()) == []
    assert option_notes(IMAGENET_FORMAT, config(upsample="nearest")) == []
    assert "nearest" in option_notes(IMAGENET_FORMAT, config())[0]
