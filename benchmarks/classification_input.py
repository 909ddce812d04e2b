"""Input of ImageNet training: images per second of a core, and the cores that a v5e host needs.

    python benchmarks/classification_input.py [--seconds=5]

Draws JPEGs of 500x375, a usual size in ImageNet, and of 1600x1200, and measures random resized
crops to 224x224 on one core: with JPEGs decoded at the size that the crop needs, as here, and with
the whole image decoded. The networks' need is bounded by arithmetic: three times the MACs of an
image, at 40 % of the peak of 197 TFLOP/s of each of 8 chips. A host of 8 chips has 224 vCPUs.
Prints both, and writes a CSV next to this script.
"""

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
from absl import app, flags

from benchmarks.csv_rows import write_rows
from data_pipelines.files.encoded import EncodedImage
from data_pipelines.transforms.classification import RandomResizedCrop
from gsto_jax.image_files import DecodeOptions, crop_pixels, decode

SECONDS = flags.DEFINE_float("seconds", 5.0, "seconds of each measurement")
SIZES, COUNT = {"500x375": (375, 500), "1600x1200": (1200, 1600)}, 16
PEAK, UTILIZATION, CHIPS, VCPUS = 197e12, 0.4, 8, 224
MACS = {"w18s": 2595712864, "w18": 4283537072, "w32": 8921133056, "w48": 17277996032}
"""Exact counts of HRNet-C at 224x224, which tests/gsto_jax/models/test_classification.py has."""


def draw_images(size: tuple[int, int]) -> list[EncodedImage]:
    """Draws images of blobs and noise, about as large as JPEGs of photographs."""
    images = []
    for n in range(COUNT):
        rng = np.random.default_rng(n)
        coarse = rng.integers(0, 256, (24, 32, 3), np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).astype(float)
        image = np.clip(image + rng.normal(0, 11, image.shape), 0, 255).astype(np.uint8)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        images.append(EncodedImage(data, f"image {n}", DecodeOptions()))
    return images


def rate(
    images: list[EncodedImage], crop: Callable[[EncodedImage, np.random.Generator], object]
) -> float:
    """Returns the crops per second of one core."""
    rng = np.random.default_rng(0)
    count, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < SECONDS.value:
        image = images[count % COUNT]
        crop(EncodedImage(image.data, image.name, image.options), rng)  # without a header
        count += 1
    return count / elapsed


def main(_: list[str]) -> None:
    """Measures, prints and writes the rates."""
    cv2.setNumThreads(1)
    transform = RandomResizedCrop(crop=(224, 224))

    def reduced(image: EncodedImage, rng: np.random.Generator) -> object:
        return transform.random_map({"image": image, "label": 0, "index": 0}, rng)

    def whole(image: EncodedImage, rng: np.random.Generator) -> object:
        pixels = decode(image.data, image.options).pixels
        return crop_pixels(pixels, transform.draw_box(image.size, rng), transform.crop)

    rates, rows = {}, []
    for size, shape in SIZES.items():
        images = draw_images(shape)
        rates[size] = rate(images, reduced), rate(images, whole)
        kilobytes = np.mean([len(image.data) for image in images]) / 1e3
        per_second = "{:.0f} images/s of one core, {:.0f} decoded as a whole".format(*rates[size])
        print(f"{size}, {kilobytes:.0f} kB: {per_second}")
    for network, macs in MACS.items():
        needed = CHIPS * UTILIZATION * PEAK / (2 * 3 * macs)
        cores = needed / rates["500x375"][0]
        print(f"{network:5} needs {needed:6.0f} images/s of 8 chips: {cores:4.0f} of {VCPUS} vCPUs")
        for size, (crops, whole_images) in rates.items():
            row = {"network": network, "needed_images_per_second": round(needed), "size": size}
            row |= {"per_core": round(crops, 1), "per_core_whole": round(whole_images, 1)}
            rows.append(row | {"cores": round(needed / crops, 1)})
    machine = f"{platform.machine()}_{os.cpu_count()}cores"
    name = f"classification_input_{machine}_opencv{cv2.__version__}"
    write_rows(Path(__file__).with_name(f"{name}.csv"), rows)


if __name__ == "__main__":
    app.run(main)
