"""Legends below overlays, and the codecs of videos."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from gsto_jax.drawing.legend import add_legend, draw_legend
from gsto_jax.predict import video_writer
from gsto_jax.predict.files import PredictionWriter
from gsto_jax.predict.outputs import SEGMENTATION_OUTPUTS
from gsto_jax.predict.prediction import Prediction
from gsto_jax.predict.video_writer import CODECS, VideoWriter

NAMES = ("road", "building", "sky", "a class of a long name")
PALETTE = ((128, 64, 128), (70, 90, 70), (70, 130, 180), (0, 200, 0))


def colors_in(image):
    return {color for color in PALETTE if (image == color).all(-1).any()}


@pytest.mark.parametrize("width", [40, 129, 480, 3000])
def test_legend_at_any_width(width):
    legend = draw_legend(NAMES, PALETTE, width)
    assert legend.shape[1:] == (width, 3)
    assert colors_in(legend) == set(PALETTE)
    dark = (legend < 100).all(-1) & ~(legend == PALETTE[1]).all(-1)
    assert not dark[:, -1].any(), "no name is cut off"


def test_legend_scales_with_the_image():
    small, large = (add_legend(np.zeros((9, w, 3), np.uint8), NAMES, PALETTE) for w in (800, 4000))
    assert small.shape[0] == 9 + 22
    assert large.shape[0] == 9 + 110


def test_overlays_with_legend(tmp_path):
    labels = np.zeros((20, 300), np.uint8)
    labels[:, 200:] = 2
    image = np.full((20, 300, 3), 255, np.uint8)
    prediction = Prediction(image, labels, {}, NAMES, PALETTE)
    writer = PredictionWriter(tmp_path, ["overlay", "ids"], SEGMENTATION_OUTPUTS, legend=True)
    writer.write("x", prediction)
    assert cv2.imread(str(tmp_path / "overlay/x.jpg")).shape == (42, 300, 3)
    assert cv2.imread(str(tmp_path / "ids/x.png")).shape[:2] == (20, 300)
    assert colors_in(prediction.with_legend(image)) == {PALETTE[0], PALETTE[2]}
    assert colors_in(prediction.with_legend(image, all_classes=True)) == set(PALETTE)
    # In a video all classes are listed, so that all frames have one size.
    other = Prediction(image, np.full_like(labels, 3), {}, NAMES, PALETTE)
    writer.write_video("film", 5, iter([prediction, other]))
    film = cv2.VideoCapture(str(tmp_path / "overlay/film.mp4"))
    frames = [film.read()[1] for _ in range(2)]
    assert frames[0].shape == frames[1].shape == (20 + 2 * 22, 300, 3)
    assert writer.codecs <= set(CODECS) and writer.codecs


def test_best_available_codec(tmp_path, monkeypatch, capfd):
    def codec_of(path):
        return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")

    with VideoWriter(tmp_path / "a.mp4", 5) as writer:
        for level in (0, 255):
            writer.write(np.full((33, 41, 3), level, np.uint8))
    assert writer.codec in ("avc1", "vp09"), "browsers play neither of the others"
    assert codec_of(tmp_path / "a.mp4").lower() in (b"avc1", b"h264", b"vp90", b"vp09")
    assert capfd.readouterr().err == "", "encoders that are missing are no error"

    monkeypatch.setattr(video_writer, "CODECS", {"zzzz": "", "mp4v": CODECS["mp4v"]})
    with VideoWriter(tmp_path / "b.mp4", 5) as writer:
        writer.write(np.zeros((32, 40, 3), np.uint8))
    assert writer.codec == "mp4v"
    assert "does not play in browsers" in CODECS["mp4v"]
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["a.mp4", "b.mp4"]
