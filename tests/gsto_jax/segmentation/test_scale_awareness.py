"""Maps whose response to size and to boundaries is known by construction."""

import csv
import json

import numpy as np
import pytest

from gsto_jax.segmentation.scale_awareness import (
    DISTANCE_EDGES,
    MIN_IMAGES,
    RESAMPLES,
    SIZE_EDGES,
    average_measures,
    branch_maps,
    compare_indices,
    estimate_ratio,
    label_geometry,
    measure_image,
)
from gsto_jax.segmentation.scale_figure import draw_awareness
from gsto_jax.segmentation.scale_results import awareness_tables, bin_names, write_scale_results

IGNORED = 255
SIDES = (2, 4, 6, 12, 20, 40)
"""Sides of the squares of class 1 in `SCENE`, on a background of class 0."""


def squares(sides=SIDES, height=64):
    label = np.zeros((height, 4 + sum(side + 4 for side in sides)), np.uint8)
    x = 4
    for side in sides:
        label[4 : 4 + side, x : x + side] = 1
        x += side + 4
    return label


SCENE = squares()
GEOMETRY = label_geometry(SCENE, IGNORED)


def size_map(label=SCENE):
    """A map equal to the size of the object at each pixel."""
    geometry = label_geometry(label, IGNORED)
    values = np.zeros(label.shape, np.float32)
    values[geometry.labeled] = geometry.sizes[geometry.objects]
    return values


def measure(*maps, label=SCENE):
    return measure_image(maps, label_geometry(label, IGNORED), label.shape)


def activation(sums, counts):
    with np.errstate(invalid="ignore"):
        return sums / counts


# Objects and boundaries


def test_objects_are_components_of_one_class():
    background = np.sqrt(SCENE.size - sum(side**2 for side in SIDES))
    np.testing.assert_allclose(sorted(GEOMETRY.sizes), [*SIDES, background])
    for value in (0, 1):  # no object mixes classes
        inside = SCENE[GEOMETRY.labeled] == value
        assert not set(GEOMETRY.objects[inside]) & set(GEOMETRY.objects[~inside])


def test_components_touch_at_corners_and_ignored_pixels_belong_to_none():
    label = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 255]], np.uint8)
    geometry = label_geometry(label, IGNORED)
    np.testing.assert_allclose(sorted(geometry.sizes**2), [2, 6])  # both classes are 8-connected
    assert geometry.objects.size == 8 and not geometry.labeled[2, 2]


def test_an_image_without_labels_has_no_objects():
    geometry = label_geometry(np.full((4, 5), IGNORED, np.uint8), IGNORED)
    assert geometry.sizes.size == geometry.objects.size == 0
    measures = measure_image([np.ones((4, 5))], geometry, (4, 5))
    assert measures.index_count == measures.size_counts.sum() == 0


def test_distances_inside_a_square():
    label = np.zeros((30, 30), np.uint8)
    label[5:25, 5:25] = 1
    geometry = label_geometry(label, IGNORED)
    distance = geometry.distance.reshape(label.shape)
    row = distance[15, :15]
    np.testing.assert_allclose(row, [4, 3, 2, 1, 0, *range(10)])
    # The ring of each width holds 4 * (side - 1) pixels, the first two on both sides.
    measures = measure_image([distance], geometry, label.shape)
    inside = [4 * (20 - 2 * n - 1) for n in range(10)]
    far = int((distance >= 4).sum())
    assert measures.distance_counts[0] == inside[0] + inside[1] + (distance[label == 0] < 2).sum()
    assert measures.distance_counts[2:].sum() == far


def test_distance_profile_of_a_map_of_boundaries():
    distance = GEOMETRY.distance.reshape(SCENE.shape)
    measures = measure((distance == 0).astype(np.float32), -distance)
    edge, falling = activation(measures.distance_sums, measures.distance_counts)
    present = measures.distance_counts > 0
    assert np.argmax(edge[present]) == 0 and np.allclose(edge[present][1:], edge[present][1])
    assert (np.diff(falling[present]) < 0).all()


def test_an_image_of_one_class_has_no_boundary():
    label = np.zeros((8, 8), np.uint8)
    assert np.isinf(label_geometry(label, IGNORED).distance).all()
    assert measure(np.ones((8, 8)), label=label).distance_counts.sum() == 0


def test_ignored_bands_bound_objects():
    label = np.zeros((3, 12), np.uint8)
    label[:, 5:7], label[:, 7:] = IGNORED, 1
    distance = label_geometry(label, IGNORED).distance.reshape(3, 10)
    np.testing.assert_allclose(distance[1], [4, 3, 2, 1, 0, 0, 1, 2, 3, 4])


# Index


def test_index_of_maps_that_follow_size():
    sizes = size_map()
    measures = measure(sizes, -sizes, np.log(sizes), np.full_like(sizes, 3.7))
    np.testing.assert_allclose(measures.indices, [1, -1, 1, 0], atol=1e-12)
    assert measures.index_count == 1
    np.testing.assert_allclose(measures.means[3], 3.7, rtol=1e-6)


def test_a_map_that_attends_to_small_objects_only():
    sizes = size_map()
    small = (sizes < 8).astype(np.float32)
    measures = measure(small)
    profile = activation(measures.size_sums[0], measures.size_counts)
    present = measures.size_counts > 0
    assert present[0] and np.argmax(np.nan_to_num(profile, nan=-9)) == 0
    np.testing.assert_allclose(profile[present][1:], profile[present][1])  # alike above 8 pixels
    # Ranks with ties: three small objects, four larger ones.
    active, order = np.array([1, 1, 1, 0, 0, 0, 0.0]), np.arange(7.0)
    ranks = np.where(active == 1, 5.0, 1.5)
    expected = np.corrcoef(ranks, order)[0, 1]
    np.testing.assert_allclose(measures.indices, [expected])


def test_standardization_makes_scale_and_offset_irrelevant():
    rng = np.random.default_rng(0)
    values = rng.random(SCENE.shape)
    first, second = measure(values, 5 + 100 * values).size_sums
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_coarse_maps_are_read_from_the_cell_of_the_pixel():
    label = np.zeros((32, 32), np.uint8)
    label[:16, :16], label[16:, 16:] = 1, 2
    coarse = np.arange(4.0).reshape(2, 2)
    full = coarse.repeat(16, 0).repeat(16, 1)
    first, second = measure(coarse, full, label=label).size_sums
    np.testing.assert_allclose(first, second)
    # The same image in the top left of a padded shape.
    padded = np.pad(coarse, ((0, 1), (0, 2)), constant_values=99)
    geometry = label_geometry(label, IGNORED)
    measures = measure_image([padded], geometry, (48, 64))
    np.testing.assert_allclose(measures.size_sums[0], first)


def test_images_of_few_objects_have_no_index():
    few = squares(SIDES[:2])
    assert measure(size_map(few), label=few).index_count == 0
    alike = label_geometry(np.arange(6, dtype=np.uint8).repeat(6)[None].repeat(6, 0), IGNORED)
    assert len(set(alike.sizes.tolist())) == 1
    assert measure_image([np.ones((6, 36))], alike, (6, 36)).index_count == 0


# Intervals


def test_interval_covers_the_mean():
    rng = np.random.default_rng(1)
    sums = rng.normal(0.3, 1, (60, 400))
    estimates = estimate_ratio(sums, np.ones(60, int), seed=2)
    covered = (estimates.low <= 0.3) & (estimates.high >= 0.3)
    assert 0.91 < covered.mean() < 0.98
    np.testing.assert_allclose(estimates.value, sums.mean(0))
    width = (estimates.high - estimates.low).mean()
    np.testing.assert_allclose(width, 2 * 1.96 / np.sqrt(60), rtol=0.05)
    again = estimate_ratio(sums, np.ones(60, int), seed=2)
    np.testing.assert_array_equal(again.low, estimates.low)
    assert (estimate_ratio(sums, np.ones(60, int), seed=3).low != estimates.low).any()


def test_images_count_by_their_number_of_values():
    counts = np.array([[1, 0], [3, 0], [0, 2], [2, 0], [1, 0], [5, 0]])
    estimates = estimate_ratio(counts * np.array([2.0, -1.0]), counts)
    np.testing.assert_allclose(estimates.value, [2, -1])
    np.testing.assert_allclose([estimates.low[0], estimates.high[0]], 2)
    assert (counts[:, 1] > 0).sum() < MIN_IMAGES and np.isnan(estimates.low[1])
    assert np.isnan(estimate_ratio(counts, 0 * counts).value).all()


def awareness(names, *make_maps, images=8):
    measures = []
    for seed in range(images):
        label = squares(np.random.default_rng(seed).permutation(SIDES))
        maps = [make(size_map(label), np.random.default_rng(seed)) for make in make_maps]
        measures.append(measure_image(maps, label_geometry(label, IGNORED), label.shape))
    return average_measures(names, measures)


def small(sizes, rng):
    return 1 / sizes


def large(sizes, rng):
    return sizes


def noise(sizes, rng):
    return rng.random(sizes.shape)


BRANCHES = ("branch 0", "branch 1")
ATTENTIVE = awareness(BRANCHES, small, large)
BLIND = awareness(BRANCHES, noise, noise)


def test_summary_of_a_network_that_attends_to_size():
    assert ATTENTIVE.index_names == (*BRANCHES, "branch 1 - 0")
    np.testing.assert_allclose(ATTENTIVE.index.value, [-1, 1, 2], atol=1e-12)
    np.testing.assert_allclose(ATTENTIVE.index.low, ATTENTIVE.index.high, atol=1e-12)
    assert ATTENTIVE.index_images == ATTENTIVE.images == 8
    assert ATTENTIVE.size_counts.sum() == 8 * (len(SIDES) + 1)
    assert (np.abs(BLIND.index.value[:2]) < 0.5).all()


def test_differences_are_paired_by_image():
    differences = compare_indices(ATTENTIVE, BLIND)
    for n, name in enumerate(ATTENTIVE.index_names):
        value, low, high = differences[name]
        np.testing.assert_allclose(value, ATTENTIVE.index.value[n] - BLIND.index.value[n])
        # The index of one network is the same in all images, so only the other one varies.
        width = BLIND.index.high[n] - BLIND.index.low[n]
        np.testing.assert_allclose(high - low, width)
    with pytest.raises(ValueError, match="same images"):
        compare_indices(ATTENTIVE, awareness(BRANCHES, small, large, images=3))


# Feature maps of a network


def test_maps_of_a_network():
    rng = np.random.default_rng(0)
    gates = [f"gate/stage{s}/module{m}/gate{j}_to{i}" for s, m, j, i in np.ndindex(2, 2, 2, 2)]
    names = ["branch/1", "branch/0", *gates, "gate/transition2", "gate/transition3"]
    features = {name: rng.random((1, 4, 4)) for name in names}
    maps = branch_maps(features)
    assert list(maps) == ["branch 0", "branch 1", "gate 0", "gate 1", "GTM 2", "GTM 3"]
    last = [features[f"gate/stage1/module1/gate1_to{i}"] for i in (0, 1)]
    np.testing.assert_allclose(maps["gate 1"], (last[0] + last[1]) / 2)
    plain = branch_maps({"branch/0": features["branch/0"]})
    assert list(plain) == ["branch 0"] and plain["branch 0"] is features["branch/0"]


# Files


def test_results_and_figure(tmp_path):
    networks = {"attentive": ATTENTIVE, "blind": BLIND}
    write_scale_results(tmp_path / "new", networks, {"split": "val"})
    record = json.loads((tmp_path / "new" / "explain.json").read_text())
    assert record["split"] == "val" and record["resamples"] == RESAMPLES
    np.testing.assert_allclose(record["networks"]["attentive"]["index"]["branch 1"], 1)
    np.testing.assert_allclose(
        record["index_differences"]["branch 0"], compare_indices(ATTENTIVE, BLIND)["branch 0"]
    )
    rows = list(csv.DictReader((tmp_path / "new" / "explain.csv").read_text().splitlines()))
    (row,) = (
        row
        for row in rows
        if (row["network"], row["map"], row["measure"], row["from"])
        == ("attentive", "branch 1", "size", "32")
    )
    assert (row["to"], int(row["count"])) == ("64", ATTENTIVE.size_counts[3])
    np.testing.assert_allclose(float(row["value"]), ATTENTIVE.size.value[1, 3], atol=1e-6)
    paths = [tmp_path / "explain.svg", tmp_path / "explain.png"]
    draw_awareness(networks, *paths)
    text = paths[0].read_text()
    assert "branch 1, index +1.00" in text and "dashed: blind" in text
    assert paths[1].stat().st_size > 5000


def test_tables_of_one_and_two_networks():
    tables = list(awareness_tables({"attentive": ATTENTIVE, "blind": BLIND}, "val"))
    assert len(tables) == 5 and len(list(awareness_tables({"a": BLIND}, "val"))) == 2
    cells = [list(column.cells) for column in tables[0].columns]
    assert cells[0] == [*ATTENTIVE.index_names, "objects"]
    assert cells[2][:3] == ["-1.00", "+1.00", "+2.00"]
    assert list(tables[-1].columns[3].cells)[1].startswith("+")


@pytest.mark.parametrize("edges", [SIZE_EDGES, DISTANCE_EDGES])
def test_bins_have_names(edges):
    names = bin_names(edges)
    assert len(names) == len(edges) - 1
    assert names[0] == f"{edges[0]:g}-{edges[1]:g}" and names[-1] == f">={edges[-2]:g}"
