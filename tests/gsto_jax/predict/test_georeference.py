"""GeoTIFFs; tests that read or write them need rasterio, from the extra `geo`."""

import errno

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from gsto_jax import UserError
from gsto_jax.image_files import DecodeOptions, read_header
from gsto_jax.predict import row_readers
from gsto_jax.predict.files import PredictionWriter
from gsto_jax.predict.georeference import is_geotiff, read_georeference
from gsto_jax.predict.outputs import MEASURES, SEGMENTATION_OUTPUTS
from tests.faults.disks import files_no_larger_than
from tests.gsto_jax.small_network import PointwiseTask, image_of, make_predictor

SIZE = (70, 90)


def geotiff(path, pixels, **profile):
    """Writes `h w c` as a GeoTIFF of UTM zone 33."""
    rasterio = pytest.importorskip("rasterio")
    height, width, count = pixels.shape
    transform = rasterio.Affine(0.5, 0, 400000, 0, -0.5, 5800000)
    defaults = {"crs": "EPSG:32633", "transform": transform, "driver": "GTiff"}
    shape = {"height": height, "width": width, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **defaults, **shape, **profile) as dataset:
        dataset.write(np.moveaxis(pixels, -1, 0))


def test_georeferences_are_found_without_rasterio(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    image = Image.fromarray(image_of(SIZE))
    image.save(tmp_path / "plain.tif")
    assert not is_geotiff(read_header(tmp_path / "plain.tif"))
    tags[33550], tags[33922] = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 4e5, 5.8e6, 0.0)
    tags.tagtype[33550] = tags.tagtype[33922] = 12
    image.save(tmp_path / "geo.tif", tiffinfo=tags)
    assert is_geotiff(read_header(tmp_path / "geo.tif"))


@pytest.mark.parametrize("in_tiles", [False, True])
def test_predictions_keep_the_georeference(tmp_path, in_tiles):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "photo.tif"
    geotiff(path, image_of(SIZE))
    options = {"unsure_below": 0.4} | ({"tile": 64} if in_tiles else {})
    predictor = make_predictor(task_kind=PointwiseTask, options=options)
    outputs = ["overlay", "color", "ids", *MEASURES]
    writer = PredictionWriter(tmp_path / "out", outputs, SEGMENTATION_OUTPUTS)
    prediction = predictor(path, measures=MEASURES)
    georeference = read_georeference(path)
    if in_tiles:
        with row_readers.open_rows(path) as rows:
            strips = predictor.predict_rows(rows, MEASURES)
            writer.write_rows("photo", SIZE, strips, georeference)
    else:
        writer.write("photo", prediction, georeference)
    for output in ("color", "ids", "confidence", "entropy"):
        with rasterio.open(tmp_path / "out" / output / "photo.tif") as dataset:
            assert dataset.crs == "EPSG:32633" and dataset.transform == georeference.transform
            expected = prediction.render(output)
            pixels = np.moveaxis(dataset.read(), 0, -1).reshape(expected.shape)
            np.testing.assert_array_equal(pixels, expected)
            if output == "ids":
                colors = [dataset.colormap(1)[k][:3] for k in (0, 3, 255)]
                assert colors == [(0, 0, 0), (0, 0, 255), (90, 90, 90)]
            assert dataset.scales[0] == (1 / 255 if output in MEASURES else 1)
    assert (tmp_path / "out/overlay/photo.jpg").exists()
    assert (tmp_path / "out/probabilities/photo.npy").exists()


RGBA = np.dstack([image_of((40, 60)), image_of((40, 60))[..., 0]])
CASES = {
    "rgb": (image_of((40, 60)), {"compress": "lzw"}, {}),
    "tiled": (image_of((40, 60)), {"tiled": True, "blockxsize": 16, "blockysize": 16}, {}),
    "planar": (image_of((40, 60)), {"interleave": "band", "photometric": "rgb"}, {}),
    "jpeg": (image_of((40, 60)), {"compress": "jpeg", "photometric": "ycbcr"}, {}),
    "gray": (image_of((40, 60))[..., :1], {}, {}),
    "rgba": (RGBA, {"photometric": "rgb", "alpha": "unspecified"}, {}),
    "alpha": (RGBA, {"photometric": "rgb", "alpha": "non-premultiplied"}, {"alpha": "black"}),
    "premultiplied": (RGBA, {"photometric": "rgb", "alpha": "premultiplied"}, {}),
    "uint16": (
        image_of((40, 60)).astype(np.uint16) * 16,
        {"photometric": "rgb"},
        {"bit_depth": 12},
    ),
    "float": (
        image_of((40, 60)).astype(np.float32) / 99,
        {"photometric": "rgb"},
        {"value_range": (0.0, 2.0)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_large_tiffs_equal_the_decoded_image(tmp_path, monkeypatch, case):
    pixels, profile, options = CASES[case]
    geotiff(tmp_path / "x.tif", pixels, **profile)
    options = DecodeOptions(**options)
    with row_readers.open_rows(tmp_path / "x.tif", options) as rows:
        expected = rows.read(0, 40)
    monkeypatch.setattr(row_readers, "MAX_PIXELS", 1000)
    with row_readers.open_rows(tmp_path / "x.tif", options) as rows:
        is_windowed = type(rows).__name__ == "_TiffRows"
        assert is_windowed == (case != "premultiplied") and rows.size == (40, 60)
        pixels = rows.read(3, 19)
    if case == "jpeg":  # two decoders, which upsample colors differently
        assert np.abs(pixels.astype(int) - expected[3:19]).mean() < 6
    else:
        np.testing.assert_array_equal(pixels, expected[3:19])


def test_damaged_and_odd_tiffs(tmp_path, monkeypatch):
    monkeypatch.setattr(row_readers, "MAX_PIXELS", 1000)
    bad = image_of((40, 60)).astype(np.float32) / 255
    bad[20, 20] = np.nan
    geotiff(tmp_path / "nan.tif", bad, photometric="rgb")
    geotiff(tmp_path / "cut.tif", np.random.default_rng(0).integers(0, 255, (40, 60, 1), np.uint8))
    whole = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) - 900])
    options = DecodeOptions(value_range=(0.0, 1.0))
    for name, message in (("nan.tif", "NaN"), ("cut.tif", "damaged|truncated|not an image")):
        with (
            pytest.raises(UserError, match=rf"{name}: .*({message})"),
            row_readers.open_rows(tmp_path / name, options) as rows,
        ):
            rows.read(0, 40)


def test_a_full_disk_leaves_no_geotiff(tmp_path):
    path = tmp_path / "photo.tif"
    geotiff(path, np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8))
    writer = PredictionWriter(tmp_path / "out", ["confidence"], SEGMENTATION_OUTPUTS)
    prediction = make_predictor()(path, measures=["confidence"])
    arguments = "photo", prediction, read_georeference(path)
    writer.write(*arguments)
    before = (tmp_path / "out/confidence/photo.tif").read_bytes()
    with files_no_larger_than(len(before) // 2), pytest.raises(OSError) as caught:
        writer.write(*arguments)
    assert caught.value.errno in (errno.EFBIG, errno.EIO)
    assert [file.name for file in (tmp_path / "out/confidence").iterdir()] == ["photo.tif"]
    assert (tmp_path / "out/confidence/photo.tif").read_bytes() == before
