"""CPU time to decode images of Cityscapes' size, by decoder and by lossless storage.

    pip install kornia-rs imagecodecs pyspng    # optional; what is not installed is skipped
    nice python benchmarks/image_decoders.py --camvid=DIR [--images=4] [--rounds=3]

DIR is a CamVid folder (`train.txt` and its files). Its images, upsampled to 1024x2048 with noise
(see input_pipeline.py), are encoded as PNGs by OpenCV and by Pillow with their defaults, which are
fast and close to libpng's, and losslessly in other forms; labels as PNGs and tiles. "crop" decodes
the middle 512x1024. Each decoder must return the pixels that were encoded. Then samples of the
Cityscapes recipe (random scales, crops and flips) are loaded from PNGs by OpenCV, from PNGs by
kornia-rs, and from tiles. All are timed in turn, by the CPU time of the process, so that other
programs disturb little and alike. Speedups are over OpenCV on the same PNGs, for other storages on
its own. Writes a CSV next to this script and prints it.
"""

import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import zstandard
from absl import app, flags, logging
from PIL import Image

from benchmarks.csv_rows import write_rows
from benchmarks.input_pipeline import Prepared, write_images
from data_pipelines.builders import BUILDERS, prepare
from data_pipelines.files.tiles import Tiles, encode_tiles
from gsto_jax.image_files import png as png_module

ROUNDS = flags.DEFINE_integer("rounds", 3, "number of rounds")
Job = tuple[dict[str, str], Callable[[Any], Any], list[Any]]
"""First columns of a row, a function, and the arguments that it is called with."""
CROP = (slice(256, 768), slice(512, 1536))


class Case(NamedTuple):
    """Files that hold the same pixels, and a function that decodes one of them."""

    content: str
    storage: str
    decoder: str
    files: list[bytes]
    decode: Callable[[bytes], Any]


def encode_by_pillow(pixels: np.ndarray) -> bytes:
    """Encodes a PNG with Pillow's defaults."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def encode_by_opencv(pixels: np.ndarray) -> bytes:
    """Encodes a PNG with OpenCV's defaults."""
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def png_decoders() -> dict[str, Callable[[bytes], Any]]:
    """Returns decoders of PNGs by name, those of optional packages if they are installed."""
    decoders: dict[str, Callable[[bytes], Any]] = {
        "opencv": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
    }
    if find_spec("kornia_rs"):
        decoders["kornia-rs"] = png_module.decode_png
    if find_spec("pyspng"):
        import pyspng

        decoders["pyspng"] = pyspng.load
    if find_spec("imagecodecs"):
        import imagecodecs

        decoders["imagecodecs, libpng"] = imagecodecs.png_decode
        decoders["imagecodecs, libspng"] = imagecodecs.spng_decode
    return decoders


def png_cases(content: str, arrays: list[np.ndarray]) -> list[Case]:
    """Returns the cases of PNGs, for all decoders."""
    writers = {"PNG by OpenCV": encode_by_opencv, "PNG by Pillow": encode_by_pillow}
    cases = []
    for storage, encode in writers.items():
        files = [encode(pixels) for pixels in arrays]
        for decoder, decode in png_decoders().items():
            cases.append(Case(content, storage, decoder, files, decode))
    return cases


def tile_cases(content: str, arrays: list[np.ndarray]) -> list[Case]:
    """Returns the cases of this project's tiles: the whole image, and a crop."""
    files = [encode_tiles(pixels) for pixels in arrays]
    return [
        Case(content, "tiles", "zstd", files, lambda data: np.asarray(Tiles(data))),
        Case(f"{content}, crop", "tiles", "zstd", files, lambda data: Tiles(data)[CROP]),
    ]


def other_cases(images: list[np.ndarray]) -> list[Case]:
    """Returns the cases of other lossless forms of whole images."""
    shape, decompress = images[0].shape, zstandard.ZstdDecompressor().decompress
    compressed = [zstandard.ZstdCompressor(level=3).compress(x.tobytes()) for x in images]
    raw = lambda data: np.frombuffer(decompress(data), np.uint8).reshape(shape)  # noqa: E731
    cases = [Case("image", "zstd of the pixels", "zstd", compressed, raw)]
    settings = [cv2.IMWRITE_WEBP_QUALITY, 101]
    webp = [cv2.imencode(".webp", x[..., ::-1], settings)[1].tobytes() for x in images]
    cases.append(Case("image", "WebP, lossless", "opencv", webp, png_decoders()["opencv"]))
    if find_spec("imagecodecs"):
        import imagecodecs as codecs

        jpeg_xl = [codecs.jpegxl_encode(x, lossless=True, effort=1, numthreads=1) for x in images]
        decode_jxl = lambda data: codecs.jpegxl_decode(data, numthreads=1)  # noqa: E731
        storage = "JPEG XL, lossless, effort 1"
        cases.append(Case("image", storage, "imagecodecs, libjxl", jpeg_xl, decode_jxl))
        qoi = [codecs.qoi_encode(x) for x in images]
        cases.append(Case("image", "QOI", "imagecodecs", qoi, codecs.qoi_decode))
    return cases


def check_pixels(case: Case, arrays: list[np.ndarray]) -> None:
    """Checks that a case decodes to the pixels that were encoded."""
    for data, expected in zip(case.files, arrays, strict=True):
        pixels = np.asarray(case.decode(data)).squeeze()
        expected = expected[CROP] if case.content.endswith("crop") else expected
        is_bgr = case.decoder == "opencv" and pixels.ndim == 3
        np.testing.assert_array_equal(pixels[..., ::-1] if is_bgr else pixels, expected)


def sample_loader(pipeline: Prepared, count: int, kornia: bool) -> Callable[[Any], Any]:
    """Returns a function that loads a training sample by index, with or without kornia-rs."""
    decoder = png_module._decoder if kornia else lambda: None
    patch = mock.patch.object(png_module, "_decoder", decoder)

    def load(index: int) -> Any:
        with patch:
            sample = pipeline.decode(index % count)
            return pipeline.augment(sample, index, np.random.default_rng(index))

    return load


def training_cases(folder: Path, count: int) -> list[tuple[dict[str, str], Callable[[Any], Any]]]:
    """Prepares the dataset as files and as tiles; returns columns and the loader of samples."""
    cases, loaders = [], []
    for storage in ("files", "tiles"):
        builder = BUILDERS["cityscapes"]()
        prepare(builder, folder / "tree", folder / storage, storage=storage, partial=True)
        records = (folder / storage).rglob("*train.array_record*")
        size = sum(path.stat().st_size for path in records) / count / 1e6
        pipeline = Prepared(folder / storage, "mixed")
        decoders = {"opencv": False, "kornia-rs": True} if storage == "files" else {"zstd": False}
        for decoder, kornia in decoders.items():
            if kornia and not find_spec("kornia_rs"):
                continue
            columns = {"content": "training sample", "storage": storage, "decoder": decoder}
            loaders.append(sample_loader(pipeline, count, kornia))
            cases.append((columns | {"megabytes": f"{size:.3f}"}, loaders[-1]))
    first, *others = [loader(0) for loader in loaders]
    for other in others:
        np.testing.assert_array_equal(first["image"], other["image"])
        np.testing.assert_array_equal(first["label"], other["label"])
    return cases


def time_calls(function: Callable[[Any], Any], arguments: list[Any]) -> float:
    """Returns the CPU milliseconds of a call."""
    start = time.process_time()
    for argument in arguments:
        function(argument)
    return 1e3 * (time.process_time() - start) / len(arguments)


def measure(jobs: list[Job]) -> list[dict[str, str]]:
    """Times all jobs in turn, in rounds; returns the rows, which begin with each job's columns."""
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(ROUNDS.value):
        for measured, (_, function, arguments) in zip(times, jobs, strict=True):
            measured.append(time_calls(function, arguments))
    rows: list[dict[str, str]] = []
    baseline: dict[Any, float] = {}
    for (columns, _, _), measured in zip(jobs, times, strict=True):
        median = statistics.median(measured)
        content, storage = columns["content"].removesuffix(", crop"), columns["storage"]
        if columns["decoder"] == "opencv" and storage.startswith(("PNG", "files")):
            baseline[content, storage] = median
            baseline.setdefault(content, median)
        reference = baseline.get((content, storage), baseline[content])
        row = columns | {
            "cpu_ms": f"{median:.2f}",
            "lowest": f"{min(measured):.2f}",
            "highest": f"{max(measured):.2f}",
            "speedup": f"{reference / median:.2f}",
            "per_second_and_core": f"{1e3 / median:.1f}",
        }
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def decoding_jobs(tree: Path) -> list[Job]:
    """Encodes the images and labels of a folder tree in all forms, and checks all decoders."""
    paths = sorted(tree.glob("leftImg8bit/train/*/*.png"))
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    paths = sorted(tree.glob("gtFine/train/*/*labelIds.png"))
    labels = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    cases = [*png_cases("image", images), *tile_cases("image", images), *other_cases(images)]
    cases += [*png_cases("label", labels), *tile_cases("label", labels)]
    jobs: list[Job] = []
    for case in cases:
        check_pixels(case, images if case.content.startswith("image") else labels)
        size = sum(map(len, case.files)) / len(case.files) / 1e6
        columns = dict(zip(("content", "storage", "decoder"), case[:3], strict=True))
        jobs.append((columns | {"megabytes": f"{size:.3f}"}, case.decode, case.files))
    return jobs


def main(_: list[str]) -> None:
    """Encodes, checks, measures, prints and writes the rows."""
    logging.set_verbosity(logging.WARNING)
    cv2.setNumThreads(1)
    for name in ("kornia_rs", "pyspng", "imagecodecs"):
        if not find_spec(name):
            print(f"{name} is not installed; its rows are left out")
    camvid = Path(flags.FLAGS.camvid).expanduser()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = len(write_images(camvid, folder / "tree", flags.FLAGS.images))
        jobs = decoding_jobs(folder / "tree")
        for columns, load in training_cases(folder, count):
            jobs.append((columns, load, list(range(3 * count))))
        rows = measure(jobs)
    versions = f"opencv{cv2.__version__}"
    versions += f"_kornia-rs{version('kornia-rs')}" if find_spec("kornia_rs") else ""
    stem = f"image_decoders_{platform.machine()}_{os.cpu_count()}cores_{versions}"
    write_rows(Path(__file__).parent / f"{stem}.csv", rows)


if __name__ == "__main__":
    app.run(main)
