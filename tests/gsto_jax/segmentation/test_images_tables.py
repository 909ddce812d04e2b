import cv2
import jax
import numpy as np
import pytest
from rich.console import Console

from gsto_jax.drawing.heat_maps import branch_figure, gate_figure
from gsto_jax.files import disk_error_message
from gsto_jax.segmentation.instance_iou import InstanceCounts
from gsto_jax.segmentation.metrics import compute_scores
from gsto_jax.segmentation.panels import IGNORED, WRONG, color_mask, error_map, sample_panel
from gsto_jax.segmentation.png_writer import SegmentationPngWriter
from gsto_jax.segmentation.tables import score_table, write_scores

CLASSES, PALETTE = ("road", "sky"), ((10, 20, 30), (200, 210, 220))
TRUTH = np.array([[0, 0, 1], [1, 255, 1]], np.uint8).repeat(40, 0).repeat(40, 1)
WRONG_AT = (slice(0, 40), slice(40, 80))


def predicted():
    prediction = np.where(TRUTH == 255, 0, TRUTH)
    prediction[WRONG_AT] = 1
    return prediction


def test_colors():
    mask = color_mask(TRUTH, PALETTE)
    assert tuple(mask[0, 0]) == PALETTE[0]
    assert tuple(mask[0, 119]) == PALETTE[1]
    assert tuple(mask[79, 60]) == IGNORED


def test_error_map():
    image = np.full((*TRUTH.shape, 3), 100, np.uint8)
    errors = error_map(image, TRUTH, predicted())
    red = (errors == WRONG).all(-1)
    assert red[WRONG_AT].all()
    assert red.sum() == 40 * 40
    assert tuple(errors[79, 60]) == IGNORED
    assert tuple(errors[0, 0]) == (178, 178, 178)


def test_sample_panel():
    image = np.random.default_rng(0).integers(0, 255, (*TRUTH.shape, 3), np.uint8)
    panel = sample_panel(image, TRUTH, predicted(), CLASSES, PALETTE)
    height, width = TRUTH.shape
    assert panel.shape == (22 + height + 22, 4 * width + 3 * 4, 3)
    tiles = [panel[22 : 22 + height, n * (width + 4) : n * (width + 4) + width] for n in range(4)]
    np.testing.assert_array_equal(tiles[0], image)
    np.testing.assert_array_equal(tiles[1], color_mask(TRUTH, PALETTE))
    np.testing.assert_array_equal(tiles[2], color_mask(predicted(), PALETTE))
    np.testing.assert_array_equal(tiles[3], error_map(image, TRUTH, predicted()))
    for color in PALETTE:
        assert (panel[22 + height :] == color).all(-1).any()


def test_png_writer_limits_and_padding(tmp_path):
    batch = {
        "image": np.zeros((3, *TRUTH.shape, 3), np.uint8),
        "label": np.stack([TRUTH] * 3),
        "size": np.array([TRUTH.shape] * 3),
        "index": np.array([4, 5, 5], np.int32),
        "mask": np.array([True, True, False]),
    }
    writer = SegmentationPngWriter(
        tmp_path, CLASSES, PALETTE, 255, -1, 0, lambda n: f"town/image{n}"
    )
    writer.write(batch, np.stack([predicted()] * 3), dict)
    writer.close()
    assert writer.num_written == 2
    written = cv2.imread(str(tmp_path / "town" / "image5.png"))
    expected = sample_panel(batch["image"][1], TRUTH, predicted(), CLASSES, PALETTE)
    np.testing.assert_array_equal(written[..., ::-1], expected)
    limited = SegmentationPngWriter(tmp_path / "one", CLASSES, PALETTE, 255, 1, 0, str)
    limited.write(batch, np.stack([predicted()] * 3), dict)
    limited.write(batch, np.stack([predicted()] * 3), dict)
    limited.close()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["4.png"]


def test_processes_share_the_limits(tmp_path, monkeypatch):
    def limits(limit, feature_images, process):
        monkeypatch.setattr(jax, "process_count", lambda: 3)
        monkeypatch.setattr(jax, "process_index", lambda: process)
        writer = SegmentationPngWriter(tmp_path, CLASSES, PALETTE, 255, limit, feature_images, str)
        return writer.limit, writer.feature_images

    assert [limits(5, 1, k) for k in range(3)] == [(2, 1), (2, 0), (1, 0)]
    assert [limits(-1, 0, k) for k in range(3)] == [(-1, 0)] * 3


def test_png_names_stay_in_the_folder(tmp_path):
    batch = {
        "image": np.zeros((1, *TRUTH.shape, 3), np.uint8),
        "label": TRUTH[None],
        "size": np.array([TRUTH.shape]),
        "index": np.zeros(1, np.int32),
        "mask": np.ones(1, bool),
    }
    for name in ("../outside", str(tmp_path / "outside")):
        writer = SegmentationPngWriter(
            tmp_path / "in", CLASSES, PALETTE, 255, -1, 0, lambda n, name=name: name
        )
        with pytest.raises(ValueError, match="outside"):
            writer.write(batch, predicted()[None], dict)
    assert not (tmp_path / "outside.png").exists()


def test_png_write_errors_are_raised(tmp_path):
    """PNGs are written in the background, so errors are raised later."""
    (tmp_path / "0.png").mkdir()
    batch = {"image": np.zeros((1, *TRUTH.shape, 3), np.uint8), "label": TRUTH[None]}
    batch |= {"size": np.array([TRUTH.shape]), "index": np.zeros(1, np.int32)}
    writer = SegmentationPngWriter(tmp_path, CLASSES, PALETTE, 255, -1, 0, str)
    writer.write(batch | {"mask": np.ones(1, bool)}, predicted()[None], dict)
    with pytest.raises(OSError, match=r"Is a directory: .*0\.png") as caught:
        writer.close()
    assert f"{tmp_path}/0.png (Is a directory)" in str(disk_error_message(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]


def test_score_table_and_file(tmp_path):
    unseen = compute_scores(np.array([[3, 1, 1], [0, 4, 0], [0, 0, 0]]))
    table = score_table(unseen, ("road", "sky", "train"), "title")
    assert table.caption == "Excluded from the mean accuracy, without true pixels: train."
    result = compute_scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    console = Console(record=True, width=100)
    console.print(score_table(result, ("road", "sky", "train"), "title"))
    text = " ".join(console.export_text().split())
    assert "75.00" in text
    assert "80.00" in text
    assert "77.50" in text
    assert "Excluded from the means, without true or predicted pixels: train." in text
    write_scores(tmp_path / "deep" / "scores.csv", result, ("road", "sky", "train"))
    lines = (tmp_path / "deep" / "scores.csv").read_text().splitlines()
    assert lines[0] == "class,iou,accuracy,boundary_iou,iiou"
    assert lines[1] == "road,0.750000,0.750000,,"
    assert lines[3] == "train,,,,"
    assert lines[4] == "mean,0.775000,0.875000,,"
    assert lines[5] == "pixel accuracy,,0.875000,,"


def test_scores_of_categories_and_instances(tmp_path):
    counts = InstanceCounts(("flat", "thing", "thing"), (0, 5.0, 5.0), {1: 1, 2: 2})
    counts.add(np.array([[1, 1, 1, 2]]), np.array([[1000 + 1, 1001, 2000 + 1, 2001]]))
    confusion = np.array([[3, 1, 0], [0, 2, 0], [0, 1, 1]])
    result = compute_scores(
        confusion, boundary=np.array([[1, 2, 2], [1, 1, 1], [0, 1, 0]]), instances=counts
    )
    classes = ("road", "car", "bus")
    console = Console(record=True, width=100)
    console.print(score_table(result, classes, "title"))
    text = " ".join(console.export_text().replace("│", " ").split())
    assert "car 50.00 100.00 100.00 71.43 2" in text
    assert "mean 58.33 75.00 44.44" in text
    assert "thing 80.00" in text
    assert "mean of categories 77.50" in text
    write_scores(tmp_path / "scores.csv", result, classes)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[2] == "car,0.500000,1.000000,1.000000,0.714286"
    assert lines[6] == "category flat,0.750000,,,"
    assert lines[8].startswith("mean of categories,0.775000,,,")
    without = InstanceCounts(("flat", "thing", "thing"), (0, 5.0, 5.0), {1: 1, 2: 2})
    alone = compute_scores(confusion, instances=without)
    assert alone.categories.mean_iou == result.categories.mean_iou
    assert np.isnan(alone.categories.instance_iou).all()


def maps():
    """Feature maps of three images, of which the second one differs."""
    steps = np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 2, 3)
    other = np.stack([np.zeros((2, 3), np.float32), steps[0], np.zeros((2, 3), np.float32)])
    actual = {f"branch/{n}": other * (n + 1) for n in range(4)}
    actual["gate/transition3"] = 0.5 + other / 2
    for source in (0, 1):
        for target in (0, 1):
            for module in (0, 1):
                name = f"gate/stage4/module{module}/gate{source}_to{target}"
                actual[name] = np.full((3, 2, 3), 0.5 + 0.1 * source + 0.2 * target, np.float32)
    return actual


def test_branch_figure():
    image = np.full((40, 60, 3), 90, np.uint8)
    of_image = {k: v[1] for k, v in maps().items()}
    figure = branch_figure(image, of_image)
    height = round(40 * 320 / 60)
    assert figure.shape == (22 + height, 5 * 320 + 4 * 4, 3)
    tiles = [figure[22:, n * 324 : n * 324 + 320] for n in range(5)]
    assert (tiles[0] == 90).all()
    for tile in tiles[2:]:  # twice, three times as much is the same image
        np.testing.assert_array_equal(tile, tiles[1])
    low, high = tiles[1][0, 0], tiles[1][-1, -1]
    assert low[2] > 100 > low[0], "blue is low"
    assert high[0] > 100 > high[2], "red is high"


def test_gate_figure():
    image = np.full((40, 60, 3), 90, np.uint8)
    figure = gate_figure(image, {k: v[1] for k, v in maps().items()})
    height = 22 + round(40 * 320 / 60)
    assert figure.shape == (3 * height, 2 * 320 + 4, 3)
    centers = figure[height + height // 2 :: height, 160::324]
    for source in (0, 1):
        for target in (0, 1):
            scaled = (0.1 * source + 0.2 * target) / 0.5  # of [0.5, 1]
            color = cv2.applyColorMap(np.full((1, 1), 255 * scaled, np.uint8), cv2.COLORMAP_JET)
            expected = 0.6 * color[0, 0, ::-1] + 0.4 * 90
            np.testing.assert_allclose(centers[source, target], expected, atol=3)
    ungated = {"gate/transition2": np.full((2, 3), 0.2, np.float32)}
    assert gate_figure(image, ungated).shape == (height, 2 * 320 + 4, 3)


def test_first_images_have_figures(tmp_path):
    batch = {
        "image": np.zeros((3, *TRUTH.shape, 3), np.uint8),
        "label": np.stack([TRUTH] * 3),
        "size": np.array([TRUTH.shape] * 3),
        "index": np.arange(3, dtype=np.int32),
        "mask": np.ones(3, bool),
    }
    writer = SegmentationPngWriter(tmp_path / "gsto", CLASSES, PALETTE, 255, 1, 2, str)
    writer.write(batch, np.stack([predicted()] * 3), maps)
    writer.close()
    names = sorted(path.name for path in (tmp_path / "gsto").iterdir())
    assert names == ["0.png", "0_branches.png", "0_gates.png", "1_branches.png", "1_gates.png"]
    assert writer.num_written == 5
    assert set(writer.images) == {
        "sample/0",
        *(f"{k}/{n}" for k in ("branches", "gates") for n in (0, 1)),
    }
    figure = cv2.imread(str(tmp_path / "gsto" / "1_branches.png"))[..., ::-1]
    np.testing.assert_array_equal(
        figure, branch_figure(batch["image"][1], {k: v[1] for k, v in maps().items()})
    )
    plain = SegmentationPngWriter(tmp_path / "plain", CLASSES, PALETTE, 255, 0, 1, str)
    branches = {k: v for k, v in maps().items() if k.startswith("branch")}
    plain.write(batch, np.stack([predicted()] * 3), lambda: branches)
    plain.close()
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["0_branches.png"]


def test_padding_is_cropped(tmp_path):
    """An image on a larger padded shape has the same PNGs as without padding."""
    height, width = TRUTH.shape
    image = np.random.default_rng(0).integers(0, 255, (1, height, width, 3), np.uint8)
    batch = {"image": image, "label": TRUTH[None], "size": np.array([[height, width]])}
    batch |= {"index": np.zeros(1, np.int32), "mask": np.ones(1, bool)}
    quarter = {"branch/0": np.arange(height * width // 4.0).reshape(1, height // 2, width // 2)}

    def on_padded_shape(x):
        more = [(0, 0), (0, x.shape[1]), (0, x.shape[2])] + [(0, 0)] * (x.ndim - 3)
        return np.pad(x, more, constant_values=7)

    large = batch | {"image": on_padded_shape(image), "label": on_padded_shape(batch["label"])}
    for name, given, predictions, shown in (
        ("alone", batch, predicted()[None], quarter),
        (
            "padded_shape",
            large,
            on_padded_shape(predicted()[None]),
            {k: on_padded_shape(v) for k, v in quarter.items()},
        ),
    ):
        writer = SegmentationPngWriter(tmp_path / name, CLASSES, PALETTE, 255, 1, 1, str)
        writer.write(given, predictions, lambda shown=shown: shown)
        writer.close()
    for name in ("0.png", "0_branches.png"):
        alone, padded_shape = (
            cv2.imread(str(tmp_path / kind / name)) for kind in ("alone", "padded_shape")
        )
        np.testing.assert_array_equal(alone, padded_shape)
