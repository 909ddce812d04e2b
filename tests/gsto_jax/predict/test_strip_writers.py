"""Images that are written strip by strip."""

import errno

import cv2
import numpy as np
import pytest
from PIL import Image

from gsto_jax import UserError
from gsto_jax.predict import strip_writers
from gsto_jax.predict.files import PredictionWriter
from gsto_jax.predict.outputs import MEASURES, SEGMENTATION_OUTPUTS
from gsto_jax.predict.row_readers import ArrayRows
from gsto_jax.predict.strip_writers import JpegWriter, NpyWriter, PngRowWriter
from tests.faults.disks import files_no_larger_than
from tests.gsto_jax.small_network import image_of, make_predictor

NOISE = np.random.default_rng(0).integers(0, 256, (50, 37, 3), np.uint8)


def write(writer, image, rows=7):
    with writer:
        for start in range(0, len(image), rows):
            writer.write(image[start : start + rows])


@pytest.mark.parametrize("image", [NOISE, NOISE[..., 0], NOISE[:1, :1]], ids=["rgb", "gray", "one"])
def test_png_strips(tmp_path, image):
    """Two readers, of which one checks all checksums, return the image."""
    path = tmp_path / "x.png"
    write(PngRowWriter(path, image.shape[:2]), image)
    with Image.open(path) as file:
        file.verify()
    with Image.open(path) as file:
        assert file.mode == ("RGB" if image.ndim == 3 else "L")
        np.testing.assert_array_equal(np.asarray(file), image)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored[..., ::-1] if image.ndim == 3 else stored, image)


def test_npy_strips(tmp_path):
    values = NOISE.astype(np.float16) / 255
    write(NpyWriter(tmp_path / "x.npy", values.shape[:2]), values)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), values)


def test_jpeg_strips_of_large_images_are_overviews(tmp_path, monkeypatch):
    image = image_of((101, 50))
    path = tmp_path / "x.jpg"
    write(JpegWriter(path, image.shape[:2]), image)
    difference = cv2.imread(str(path))[..., ::-1].astype(int) - image
    assert np.abs(difference).mean() < 4
    monkeypatch.setattr(strip_writers, "OVERVIEW_SIDE", 40)
    writer = JpegWriter(path, image.shape[:2])
    writer.decorate = lambda overview: overview[:, :10]
    write(writer, image)
    np.testing.assert_array_equal(writer.overview, image[::3, ::3])
    assert cv2.imread(str(path)).shape == (34, 10, 3)


@pytest.fixture(scope="module")
def tiled():
    predictor = make_predictor(options={"tile": 64, "unsure_below": 0.4})
    image = image_of((130, 90))
    return image, predictor, predictor(image, measures=MEASURES)


def test_rows_written_as_they_are_predicted(tmp_path, tiled):
    image, predictor, whole = tiled
    outputs = [x for x in SEGMENTATION_OUTPUTS if x not in ("branches", "gates")]
    writer = PredictionWriter(tmp_path, outputs, SEGMENTATION_OUTPUTS, legend=True)
    rows = predictor.predict_rows(ArrayRows(image), MEASURES)
    writer.write_rows("deep/x", (130, 90), rows)
    for output in ("color", "ids", "confidence", "entropy"):
        stored = cv2.imread(str(tmp_path / output / "deep/x.png"), cv2.IMREAD_UNCHANGED)
        stored = stored[..., ::-1] if stored.ndim == 3 else stored
        np.testing.assert_array_equal(stored, whole.render(output), err_msg=output)
    stored = np.load(tmp_path / "probabilities/deep/x.npy")
    np.testing.assert_array_equal(stored, whole.probabilities)
    overlay = cv2.imread(str(tmp_path / "overlay/deep/x.jpg"))
    assert overlay.shape == whole.with_legend(whole.overlay()).shape
    assert cv2.imread(str(tmp_path / "uncertainty/deep/x.jpg")).shape == image.shape


def test_nothing_is_left_of_rows_that_fail(tmp_path, tiled):
    """Neither when a prediction raises, nor when the disk is full; old files stay."""
    image, predictor, _ = tiled
    outputs = ["ids", "overlay", "probabilities"]
    writer = PredictionWriter(tmp_path, outputs, SEGMENTATION_OUTPUTS)
    strips = list(predictor.predict_rows(ArrayRows(image), MEASURES))

    def fails():
        yield strips[0]
        raise UserError("cut off")

    with pytest.raises(UserError, match="cut off"):
        writer.write_rows("x", (130, 90), fails())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    writer.write_rows("x", (130, 90), iter(strips))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 3
    with files_no_larger_than(100), pytest.raises(OSError) as caught:
        writer.write_rows("x", (130, 90), iter(strips))
    assert caught.value.errno == errno.EFBIG and str(tmp_path) in str(caught.value.filename)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
