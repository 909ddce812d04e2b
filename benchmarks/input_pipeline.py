"""Images a second of the Cityscapes recipe, against the usual way of writing it.

    python benchmarks/input_pipeline.py --camvid=DIR [--images=12]

DIR is a CamVid folder (`train.txt` and its files): its frames, upsampled to 1024x2048 with noise of
a fixed seed, stand for Cityscapes' PNGs of 2.0 to 3.3 MB. The usual way decodes both PNGs with
OpenCV, resizes the whole image, cuts the crop out and normalizes it in float (to normalize all of
the image before the cut would cost it several times as much); ours leaves normalizing to the
device. Both draw the same places. All are timed in turn, on one core; then as batches of 4, by two
worker processes of grain. Prints ratios and where our time goes, and writes CSV beside this file.
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
    train_batches,
)
from data_pipelines.builders import BUILDERS, prepare

CAMVID = flags.DEFINE_string("camvid", None, "folder of CamVid", required=True)
IMAGES = flags.DEFINE_integer("images", 12, "how many images")
ROUNDS = 5
SCALES = {"0.5": (0.5, 1), "1": (1.0, 1), "2": (2.0, 1), "mixed": (0.5, 17)}
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
CROP = (512, 1024)
# CamVid's ids as Cityscapes': any will do, as long as they are valid.
IDS = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25, 0], np.uint8)


def write_images(camvid: Path, folder: Path, count: int) -> list[int]:
    """Writes a tree like Cityscapes'; returns the bytes of each image."""
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


class Usual:
    """OpenCV in the usual order: decode, look ids up, resize all, normalize, crop."""

    def __init__(self, folder: Path, scale: str) -> None:
        self.images = sorted(folder.glob("leftImg8bit/train/*/*.png"))
        self.labels = sorted(folder.glob("gtFine/train/*/*labelIds.png"))
        self.draw = augmentation(scale)
        self.table = np.full(256, 255, np.uint8)
        for raw, train in CITYSCAPES.id_map:
            if raw >= 0:
                self.table[raw] = train

    def decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Both PNGs."""
        image = cv2.imread(str(self.images[index]), cv2.IMREAD_COLOR)
        return image, cv2.imread(str(self.labels[index]), cv2.IMREAD_GRAYSCALE)

    def augment(self, sample: Any, index: int, rng: np.random.Generator) -> Any:
        """Everything after decoding."""
        image, label = sample
        place = self.draw.sample(label.shape, rng)
        size = (place.width, place.height)
        label = self.table[label]
        if size != label.shape[::-1]:
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        if place.flip:
            image, label = image[:, ::-1], label[:, ::-1]
        where = (slice(place.top, place.top + CROP[0]), slice(place.left, place.left + CROP[1]))
        image = cv2.cvtColor(np.ascontiguousarray(image[where]), cv2.COLOR_BGR2RGB)
        normal = (image.astype(np.float32) / 255 - MEAN) / STD
        return normal, np.ascontiguousarray(label[where])


class Ours:
    """Records of a prepared dataset."""

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
            workers=2,
        )
        self.source = make_source(self.config, "train")
        self.draw = augmentation(scale)

    def decode(self, index: int) -> Any:
        """What is decoded before the crop is known: of tiles, nothing."""
        return self.source[index]

    def augment(self, sample: Any, index: int, rng: np.random.Generator) -> Any:
        """The crop."""
        return self.draw.random_map(sample, rng)


def augmentation(scale: str) -> RandomScaleCropFlip:
    """The recipe at one scale, or mixed."""
    low, count = SCALES[scale]
    return RandomScaleCropFlip(crop=CROP, base_size=2048, scale_min=low, num_scales=count)


def seconds(way: Any, images: int, seed: int) -> tuple[float, float]:
    """Seconds an image of decoding, and of all."""
    decoding, start = 0.0, time.perf_counter()
    for index in range(images):
        before = time.perf_counter()
        decoded = way.decode(index)
        decoding += time.perf_counter() - before
        way.augment(decoded, index, np.random.default_rng([seed, index]))
    return decoding / images, (time.perf_counter() - start) / images


def check_same_pixels(ways: dict[str, Any], images: int) -> None:
    """Storages must agree exactly; the usual way within one gray level, labels exactly."""
    for index in range(images):
        rng = lambda: np.random.default_rng([0, index])  # noqa: B023, E731
        usual, label = ways["usual"].augment(ways["usual"].decode(index), index, rng())
        gray = np.rint((usual * STD + MEAN) * 255)
        ours = [
            ways[name].augment(ways[name].decode(index), index, rng())
            for name in ("files", "tiles")
        ]
        for made in ours:
            assert (made["label"] == label).all()
            assert np.abs(made["image"] - gray).max() <= 1
        assert (ours[0]["image"] == ours[1]["image"]).all()


class UsualBatches(grain.transforms.RandomMap):
    """The usual way as a transform of grain, for workers."""

    def __init__(self, usual: Usual) -> None:
        self.usual = usual

    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        """One sample of an image's number."""
        return self.usual.augment(self.usual.decode(element), element, rng)


def rate_of_workers(way: Any, seconds_: float = 12.0) -> float:
    """Images a second of batches of 4, by two worker processes."""
    if isinstance(way, Usual):
        stream = grain.MapDataset.range(len(way.images)).seed(0).random_map(UsualBatches(way))
        options = grain.MultiprocessingOptions(num_workers=2)
        batches = iter(stream.repeat().batch(4).to_iter_dataset().mp_prefetch(options))
    else:
        batches = train_batches(way.config, way.source, 4, 0)
    for _ in range(8):  # the workers start, and fill their buffers
        next(batches)
    made, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds_:
        next(batches)
        made += 4
    passed = time.perf_counter() - start
    batches.close()
    return made / passed


def profile(way: Ours, images: int) -> list[tuple[str, float]]:
    """Milliseconds an image by function, the most costly first."""
    profiler = cProfile.Profile()
    profiler.enable()
    for round_ in range(ROUNDS):
        seconds(way, images, round_)
    profiler.disable()
    found = []
    for (path, _, name), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        where = name.strip("{}<>") if path == "~" else f"{Path(path).name} {name}"
        found.append((where, 1e3 * own / (ROUNDS * images)))
    return sorted(found, key=lambda item: -item[1])[:6]


def main(_: list[str]) -> None:
    """Makes the images, times all, prints and writes the result."""
    logging.set_verbosity(logging.WARNING)
    cv2.setNumThreads(1)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = write_images(Path(CAMVID.value).expanduser(), folder / "tree", IMAGES.value)
        for storage in ("files", "tiles"):
            prepare(
                BUILDERS["cityscapes"](), folder / "tree", folder / storage, storage, partial=True
            )
        stored = [
            sum(path.stat().st_size for path in (folder / s).rglob("*train.array_record*"))
            for s in ("files", "tiles")
        ]
        print(f"{len(sizes)} PNGs of {min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f} MB")
        print(f"tiles take {stored[1] / stored[0]:.2f} times the bytes of the PNGs")
        rows.append(["bytes of tiles / PNGs", "", "", "", f"{stored[1] / stored[0]:.3f}"])
        print("milliseconds an image on one core: decode + augment = all, and images a second")
        for scale in SCALES:
            made: dict[str, Any] = {
                "usual": (Usual, (folder / "tree", scale)),
                "files": (Ours, (folder / "files", scale)),
                "tiles": (Ours, (folder / "tiles", scale)),
            }
            ways = {name: make(*args) for name, (make, args) in made.items()}
            check_same_pixels(ways, 2)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for round_ in range(ROUNDS):
                for name, way in ways.items():
                    times[name].append(seconds(way, len(sizes), round_))
            middle = {
                name: [1e3 * statistics.median(column) for column in zip(*values, strict=True)]
                for name, values in times.items()
            }
            for name, (decode, total) in middle.items():
                augment, usual = total - decode, middle["usual"]
                of_augment = (usual[1] - usual[0]) / augment
                print(
                    f"  scale {scale:5s} {name:5s}: {decode:5.1f} + {augment:5.1f} = {total:5.1f},"
                    f" {1e3 / total:6.1f}/s   augment {of_augment:4.1f}x, all"
                    f" {usual[1] / total:4.1f}x"
                )
                rows.append(["one core", scale, name, f"{decode:.2f}", f"{total:.2f}"])
            if scale == "mixed":
                rates = {name: rate_of_workers(way) for name, way in ways.items()}
                for name, rate in rates.items():
                    print(
                        f"  two workers, mixed, {name:5s}: {rate:5.1f} images/s"
                        f"   {rate / rates['usual']:4.1f}x"
                    )
                    rows.append(["two workers", scale, name, "", f"{1e3 / rate:.2f}"])
                for name in ("files", "tiles"):
                    print(f"  where the time of {name} goes, ms an image:")
                    for where, spent in profile(ways[name], len(sizes)):
                        print(f"    {spent:5.2f}  {where}")
    stem = f"input_pipeline_{platform.machine()}_{os.cpu_count()}cores_opencv{cv2.__version__}"
    with (Path(__file__).parent / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["where", "scale", "way", "decode_ms", "all_ms"])
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
