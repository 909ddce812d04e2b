"""Throughput of the Cityscapes input pipeline, compared with a conventional one.

    python benchmarks/input_pipeline.py --camvid=DIR [--images=12]

DIR is a CamVid folder (`train.txt` and its files). Its images, upsampled to 1024x2048 with fixed
noise, stand in for Cityscapes' PNGs of 2.0 to 3.3 MB. The conventional pipeline ("usual") decodes
both PNGs with OpenCV, resizes the whole image, crops, and normalizes the crop in float (normalizing
the whole image would be several times slower); this project's normalizes on the device. Both sample
the same crops. They are timed in turn on one core, then as batches of 4 from two worker processes
of Grain. Prints ratios and a profile, and writes a CSV next to this script.
"""

import cProfile
import csv
import os
import platform
import pstats
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import grain
import numpy as np
from absl import app, flags, logging

from data_pipelines import (
    CITYSCAPES,
    DataConfig,
    RandomScaleCropFlip,
    make_source,
    train_throughput,
)
from data_pipelines.builders import BUILDERS, prepare

CAMVID = flags.DEFINE_string("camvid", None, "folder of CamVid", required=True)
IMAGES = flags.DEFINE_integer("images", 12, "number of images")
ROUNDS = 5
SCALES = {"0.5": (0.5, 1), "1": (1.0, 1), "2": (2.0, 1), "mixed": (0.5, 17)}
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
CROP = (512, 1024)
# Cityscapes ids for CamVid's classes; any valid ids will do.
IDS = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25, 0], np.uint8)


def write_images(camvid: Path, folder: Path, count: int) -> list[int]:
    """Writes a folder tree like Cityscapes'; returns the file size of each image."""
    sizes = []
    lines = (camvid / "train.txt").read_text().splitlines()
    for n, line in enumerate(lines[:: max(1, len(lines) // count)][:count]):
        image_path, label_path = line.split()
        rng = np.random.default_rng(n)
        image = cv2.resize(
            cv2.imread(str(camvid / image_path)), (2048, 1024), interpolation=cv2.INTER_CUBIC
        )
        noise = rng.normal(0, 0.6 + 2 * n / count, image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
        label = IDS[cv2.imread(str(camvid / label_path), cv2.IMREAD_GRAYSCALE)]
        label = cv2.resize(label, (2048, 1024), interpolation=cv2.INTER_NEAREST)
        for split in ("train", "val"):
            name = f"{split}/ulm/ulm_{n:06d}_000019"
            for kind, pixels in (
                ("leftImg8bit/{}_leftImg8bit.png", image),
                ("gtFine/{}_gtFine_labelIds.png", label),
                ("gtFine/{}_gtFine_instanceIds.png", label.astype(np.uint16)),
            ):
                path = folder / kind.format(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                if split == "train" or n == 0:
                    cv2.imwrite(str(path), pixels)
        sizes.append(
            (folder / f"leftImg8bit/train/ulm/ulm_{n:06d}_000019_leftImg8bit.png").stat().st_size
        )
    return sizes


class Conventional:
    """A pipeline with OpenCV: decode, map ids, resize, flip, crop, normalize."""

    def __init__(self, folder: Path, scale: str) -> None:
        self.images = sorted(folder.glob("leftImg8bit/train/*/*.png"))
        self.labels = sorted(folder.glob("gtFine/train/*/*labelIds.png"))
        self.draw = augmentation(scale)
        self.table = np.full(256, 255, np.uint8)
        for raw, train in CITYSCAPES.id_map:
            if raw >= 0:
                self.table[raw] = train

    def decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Decodes both PNGs."""
        image = cv2.imread(str(self.images[index]), cv2.IMREAD_COLOR)
        return image, cv2.imread(str(self.labels[index]), cv2.IMREAD_GRAYSCALE)

    def augment(self, sample: Any, index: int, rng: np.random.Generator) -> Any:
        """Applies everything after decoding."""
        image, label = sample
        crop = self.draw.sample(label.shape, rng)
        size = (crop.width, crop.height)
        label = self.table[label]
        if size != label.shape[::-1]:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        if crop.flip:
            image, label = image[:, ::-1], label[:, ::-1]
        window = (slice(crop.top, crop.top + CROP[0]), slice(crop.left, crop.left + CROP[1]))
        image = cv2.cvtColor(np.ascontiguousarray(image[window]), cv2.COLOR_BGR2RGB)
        normalized = (image.astype(np.float32) / 255 - MEAN) / STD
        return normalized, np.ascontiguousarray(label[window])


class Prepared:
    """This project's pipeline on a prepared dataset."""

    def __init__(self, root: Path, scale: str) -> None:
        table, (low, count) = CITYSCAPES, SCALES[scale]
        self.config = DataConfig(
            source="tfds",
            root=str(root),
            name="cityscapes",
            classes=table.names,
            palette=table.palette,
            id_map=table.id_map,
            crop=CROP,
            base_size=2048,
            scale_min=low,
            num_scales=count,
        )
        self.source = make_source(self.config, "train")
        self.draw = augmentation(scale)

    def decode(self, index: int) -> Any:
        """Reads an element; tiles are decoded only when they are cropped."""
        return self.source[index]

    def augment(self, sample: Any, index: int, rng: np.random.Generator) -> Any:
        """Applies the random crop."""
        return self.draw.random_map(sample, rng)


def augmentation(scale: str) -> RandomScaleCropFlip:
    """Returns the augmentation of the recipe at one scale, or at mixed ones."""
    low, count = SCALES[scale]
    return RandomScaleCropFlip(crop=CROP, base_size=2048, scale_min=low, num_scales=count)


def time_pipeline(pipeline: Any, images: int, seed: int) -> tuple[float, float]:
    """Returns the seconds per image of decoding, and in total."""
    decoding, start = 0.0, time.perf_counter()
    for index in range(images):
        before = time.perf_counter()
        decoded = pipeline.decode(index)
        decoding += time.perf_counter() - before
        pipeline.augment(decoded, index, np.random.default_rng([seed, index]))
    return decoding / images, (time.perf_counter() - start) / images


def check_same_pixels(pipelines: dict[str, Any], images: int) -> None:
    """Checks that storages agree exactly, and the conventional pipeline within one gray level."""
    for index in range(images):
        rng = lambda: np.random.default_rng([0, index])  # noqa: B023, E731
        usual, label = pipelines["usual"].augment(pipelines["usual"].decode(index), index, rng())
        gray = np.rint((usual * STD + MEAN) * 255)
        prepared = [
            pipelines[name].augment(pipelines[name].decode(index), index, rng())
            for name in ("files", "tiles")
        ]
        for element in prepared:
            assert (element["label"] == label).all()
            assert np.abs(element["image"] - gray).max() <= 1
        assert (prepared[0]["image"] == prepared[1]["image"]).all()


class ConventionalBatches(grain.transforms.RandomMap):
    """The conventional pipeline as a Grain transform, for worker processes."""

    def __init__(self, pipeline: Conventional) -> None:
        self.pipeline = pipeline

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """Returns an augmented sample by index."""
        return self.pipeline.augment(self.pipeline.decode(element), element, rng)


def worker_throughput(pipeline: Any, duration: float = 12.0) -> float:
    """Returns images per second with batches of 4 and two worker processes."""
    if isinstance(pipeline, Conventional):
        stream = (
            grain.MapDataset.range(len(pipeline.images))
            .seed(0)
            .random_map(ConventionalBatches(pipeline))
        )
        options = grain.MultiprocessingOptions(num_workers=2)
        batches = iter(stream.repeat().batch(4).to_iter_dataset().mp_prefetch(options))
    else:
        speed = train_throughput(pipeline.config, pipeline.source, 4, workers=2, seconds=duration)
        return speed.images_per_second
    for _ in range(8):  # the workers start and fill their buffers
        next(batches)
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < duration:
        next(batches)
        images += 4
    elapsed = time.perf_counter() - start
    batches.close()
    return images / elapsed


def profile(pipeline: Prepared, images: int) -> list[tuple[str, float]]:
    """Returns the milliseconds per image of the most expensive functions."""
    profiler = cProfile.Profile()
    profiler.enable()
    for round_ in range(ROUNDS):
        time_pipeline(pipeline, images, round_)
    profiler.disable()
    rows = []
    for (path, _, name), (_, _, total, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        function = name.strip("{}<>") if path == "~" else f"{Path(path).name} {name}"
        rows.append((function, 1e3 * total / (ROUNDS * images)))
    return sorted(rows, key=lambda item: -item[1])[:6]


def compare_scale(folder: Path, scale: str, images: int) -> list[list[object]]:
    """Times all pipelines at a scale on one core, prints and returns the rows."""
    pipelines: dict[str, Any] = {
        "usual": Conventional(folder / "tree", scale),
        "files": Prepared(folder / "files", scale),
        "tiles": Prepared(folder / "tiles", scale),
    }
    check_same_pixels(pipelines, 2)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
    for round_ in range(ROUNDS):
        for name, pipeline in pipelines.items():
            times[name].append(time_pipeline(pipeline, images, round_))
    medians = {
        name: [1e3 * statistics.median(column) for column in zip(*values, strict=True)]
        for name, values in times.items()
    }
    rows: list[list[object]] = []
    for name, (decode, total) in medians.items():
        augment, usual = total - decode, medians["usual"]
        print(
            f"  scale {scale:5s} {name:5s}: {decode:5.1f} + {augment:5.1f} = {total:5.1f},"
            f" {1e3 / total:6.1f}/s   augment {(usual[1] - usual[0]) / augment:4.1f}x, total"
            f" {usual[1] / total:4.1f}x"
        )
        rows.append(["one core", scale, name, f"{decode:.2f}", f"{total:.2f}"])
    return rows + (compare_workers(pipelines, images) if scale == "mixed" else [])


def compare_workers(pipelines: dict[str, Any], images: int) -> list[list[object]]:
    """Times all pipelines with worker processes, prints profiles and returns the rows."""
    rates = {name: worker_throughput(pipeline) for name, pipeline in pipelines.items()}
    for name, rate in rates.items():
        speedup = rate / rates["usual"]
        print(f"  two workers, mixed, {name:5s}: {rate:5.1f} images/s   {speedup:4.1f}x")
    for name in ("files", "tiles"):
        print(f"  profile of {name}, ms per image:")
        for function, milliseconds in profile(pipelines[name], images):
            print(f"    {milliseconds:5.2f}  {function}")
    return [["two workers", "mixed", name, "", f"{1e3 / rate:.2f}"] for name, rate in rates.items()]


def main(_: list[str]) -> None:
    """Writes the images, compares the pipelines, prints and writes the rows."""
    logging.set_verbosity(logging.WARNING)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = write_images(Path(CAMVID.value).expanduser(), folder / "tree", IMAGES.value)
        stored = []
        for storage in ("files", "tiles"):
            builder = BUILDERS["cityscapes"]()
            prepare(builder, folder / "tree", folder / storage, storage=storage, partial=True)
            records = (folder / storage).rglob("*train.array_record*")
            stored.append(sum(path.stat().st_size for path in records))
        print(f"{len(sizes)} PNGs of {min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} MB")
        print(f"tiles take {stored[1] / stored[0]:.2f} times the bytes of the PNGs")
        rows: list[list[object]] = []
        rows.append(["bytes of tiles / PNGs", "", "", "", f"{stored[1] / stored[0]:.3f}"])
        print("ms per image on one core: decode + augment = total, and images per second")
        for scale in SCALES:
            rows += compare_scale(folder, scale, len(sizes))
    stem = f"input_pipeline_{platform.machine()}_{os.cpu_count()}cores_opencv{cv2.__version__}"
    with (Path(__file__).parent / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["setting", "scale", "implementation", "decode_ms", "total_ms"])
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
