import cv2
import numpy as np
import pytest
from rich.console import Console

from gsto_jax.metrics import scores
from gsto_jax.tables import score_table, write_scores
from gsto_jax.visualize import IGNORED, WRONG, PictureWriter, color_mask, error_map, sample_panel

CLASSES, PALETTE = ("road", "sky"), ((10, 20, 30), (200, 210, 220))
TRUTH = np.array([[0, 0, 1], [1, 255, 1]], np.uint8).repeat(40, 0).repeat(40, 1)
WRONG_AT = (slice(0, 40), slice(40, 80))


def predicted():
    prediction = np.where(TRUTH == 255, 0, TRUTH)
    prediction[WRONG_AT] = 1
    return prediction


def test_colours():
    mask = color_mask(TRUTH, PALETTE)
    assert tuple(mask[0, 0]) == PALETTE[0]
    assert tuple(mask[0, 119]) == PALETTE[1]
    assert tuple(mask[79, 60]) == IGNORED


def test_errors_are_red_and_only_where_they_count():
    image = np.full((*TRUTH.shape, 3), 100, np.uint8)
    errors = error_map(image, TRUTH, predicted())
    red = (errors == WRONG).all(-1)
    assert red[WRONG_AT].all()
    assert red.sum() == 40 * 40
    assert tuple(errors[79, 60]) == IGNORED
    assert tuple(errors[0, 0]) == (178, 178, 178)


def test_panel_holds_all_four_and_a_legend():
    image = np.random.default_rng(0).integers(0, 255, (*TRUTH.shape, 3), np.uint8)
    panel = sample_panel(image, TRUTH, predicted(), CLASSES, PALETTE)
    height, width = TRUTH.shape
    assert panel.shape == (22 + height + 22, 4 * width + 3 * 4, 3)
    tiles = [panel[22 : 22 + height, n * (width + 4) : n * (width + 4) + width] for n in range(4)]
    np.testing.assert_array_equal(tiles[0], image)
    np.testing.assert_array_equal(tiles[1], color_mask(TRUTH, PALETTE))
    np.testing.assert_array_equal(tiles[2], color_mask(predicted(), PALETTE))
    np.testing.assert_array_equal(tiles[3], error_map(image, TRUTH, predicted()))
    for colour in PALETTE:
        assert (panel[22 + height :] == colour).all(-1).any()


def test_writer_stops_at_its_limit_and_skips_filling(tmp_path):
    batch = {
        "image": np.zeros((3, *TRUTH.shape, 3), np.uint8),
        "label": np.stack([TRUTH] * 3),
        "index": np.array([4, 5, 5], np.int32),
        "mask": np.array([True, True, False]),
    }
    writer = PictureWriter(tmp_path, CLASSES, PALETTE, 255, -1, lambda n: f"town/picture{n}")
    writer.write(batch, np.stack([predicted()] * 3))
    assert writer.written == 2
    written = cv2.imread(str(tmp_path / "town" / "picture5.png"))
    expected = sample_panel(batch["image"][1], TRUTH, predicted(), CLASSES, PALETTE)
    np.testing.assert_array_equal(written[..., ::-1], expected)
    limited = PictureWriter(tmp_path / "one", CLASSES, PALETTE, 255, 1, str)
    limited.write(batch, np.stack([predicted()] * 3))
    limited.write(batch, np.stack([predicted()] * 3))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["4.png"]


def test_writer_stays_in_its_folder(tmp_path):
    batch = {
        "image": np.zeros((1, *TRUTH.shape, 3), np.uint8),
        "label": TRUTH[None],
        "index": np.zeros(1, np.int32),
        "mask": np.ones(1, bool),
    }
    for name in ("../outside", str(tmp_path / "outside")):
        writer = PictureWriter(
            tmp_path / "in", CLASSES, PALETTE, 255, -1, lambda n, name=name: name
        )
        with pytest.raises(ValueError, match="outside"):
            writer.write(batch, predicted()[None])
    assert not (tmp_path / "outside.png").exists()


def test_score_table_and_file(tmp_path):
    unseen = scores(np.array([[3, 1, 1], [0, 4, 0], [0, 0, 0]]))
    table = score_table(unseen, ("road", "sky", "train"), "title")
    assert table.caption == "Left out of the mean accuracy, having no true pixel: train."
    result = scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    console = Console(record=True, width=100)
    console.print(score_table(result, ("road", "sky", "train"), "title"))
    text = " ".join(console.export_text().split())
    assert "75.00" in text
    assert "80.00" in text
    assert "77.50" in text
    assert "Left out of the means, having neither truth nor prediction: train." in text
    write_scores(tmp_path / "deep" / "scores.csv", result, ("road", "sky", "train"))
    lines = (tmp_path / "deep" / "scores.csv").read_text().splitlines()
    assert lines[0] == "class,iou,accuracy"
    assert lines[1] == "road,0.750000,0.750000"
    assert lines[3] == "train,nan,nan"
    assert lines[4] == "mean,0.775000,0.875000"
    assert lines[5] == "pixel accuracy,,0.875000"
