"""The same images and labels, laid out in the ways that people have."""

import base64
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as coco_masks
from PIL import Image

from data_pipelines import CAMVID

NAMES = (*CAMVID.names, "Unlabelled")
COLORS = (*CAMVID.palette, (0, 0, 0))
SIZE = (48, 64)
SPLITS = {"train": ("a1", "b2", "c3", "d4"), "val": ("e5", "f6")}


def examples(splits=SPLITS, size=SIZE):
    """Returns image and label ids of each name, of CamVid, or drawn without GSTO_DATA.

    With a size, CamVid's images are resized to it.
    """
    names = [name for split in splits.values() for name in split]
    root = Path(os.environ.get("GSTO_DATA", "/nowhere")) / "camvid"
    if (root / "train.txt").is_file():
        lines = (root / "train.txt").read_text().splitlines()
        files = [line.split() for line in lines[:: len(lines) // len(names)]]
        return {
            name: (read(root / image, cv2.IMREAD_COLOR_RGB, size), read(root / label, -1, size))
            for name, (image, label) in zip(names, files, strict=False)
        }
    rng = np.random.default_rng(0)
    return {name: drawn(rng) for name in names}


def read(path, flag, size):
    image = cv2.imread(str(path), flag)
    # Nearest neighbors, so that small labels keep many classes.
    return cv2.resize(image, size[::-1], interpolation=0) if size else image


def drawn(rng):
    """Returns a noisy image and a label of rectangles of all ids over the first."""
    label = np.zeros(SIZE, np.uint8)
    for value in range(12):
        y, x = rng.integers(0, SIZE[0] - 12), rng.integers(0, SIZE[1] - 12)
        label[y : y + 12, x : x + 12] = value
    return rng.integers(0, 256, (*SIZE, 3), np.uint8), label


def save(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(np.ravel(palette).tolist())
    image.save(path)


def colored(label):
    return np.array(COLORS, np.uint8)[label]


class Layouts:
    """Writes one layout per method into a folder; each is given the split's examples."""

    def rgb_masks(self, root, split, name, image, label):
        save(root / f"images/{split}/{name}.png", image)
        save(root / f"masks/{split}/{name}.png", colored(label))
        lines = (f"{r} {g} {b}\t{name}\n" for (r, g, b), name in zip(COLORS, NAMES, strict=True))
        (root / "label_colors.txt").write_text("".join(lines))

    def palette(self, root, split, name, image, label):
        save(root / f"JPEGImages/{name}.jpg", image)
        save(root / f"SegmentationClass/{name}.png", label, COLORS)
        names(root)
        with (lists(root) / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")

    def ids_from_1(self, root, split, name, image, label):
        save(root / f"{split}/images/{name}.jpg", image)
        save(root / f"{split}/labels/{name}.png", label + 1)
        names(root)

    def coco(self, root, split, name, image, label):
        save(root / f"{split}2017/{name}.jpg", image)
        path = root / f"annotations/instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        content = {"images": [], "annotations": [], "categories": []}
        if path.exists():
            content = json.loads(path.read_text())
        number = len(content["images"]) + 1
        size = {"height": label.shape[0], "width": label.shape[1]}
        content["images"].append({"id": number, "file_name": f"{name}.jpg", **size})
        content["categories"] = [{"id": 7 + k, "name": text} for k, text in enumerate(CAMVID.names)]
        for k in set(np.unique(label).tolist()) - {11}:
            rle = coco_masks.encode(np.asfortranarray(label == k))
            rle["counts"] = rle["counts"].decode()
            entry = {"id": len(content["annotations"]), "image_id": number, "category_id": 7 + k}
            content["annotations"].append(entry | {"segmentation": rle, "iscrowd": 0})
        path.write_text(json.dumps(content))

    def labelme(self, root, split, name, image, label):
        save(root / f"{split}/{name}.jpg", image)
        shapes = []
        for k in set(np.unique(label).tolist()) - {11}:
            rows, columns = np.nonzero(label == k)
            box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            png = cv2.imencode(".png", (label == k)[box].astype(np.uint8))[1].tobytes()
            points = [[int(columns.min()), int(rows.min())], [int(columns.max()), int(rows.max())]]
            shape = {"label": CAMVID.names[k], "shape_type": "mask", "points": points}
            shapes.append(shape | {"mask": base64.b64encode(png).decode()})
        content = {"shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None}
        (root / f"{split}/{name}.json").write_text(
            json.dumps(content | {"imageHeight": label.shape[0], "imageWidth": label.shape[1]})
        )
        (root / "labels.txt").write_text("".join(f"{name}\n" for name in CAMVID.names))

    def ids_of_16_bits(self, root, split, name, image, label):
        save(root / f"{split}_images/{name}.png", image)
        save(root / f"{split}_labels/{name}.png", label.astype(np.uint16) + 1000)
        pairs = {name: 1000 + k for k, name in enumerate(NAMES)}
        (root / "classes.json").write_text(json.dumps(pairs))

    def one_folder(self, root, split, name, image, label):
        save(root / f"{name}.jpg", image)
        save(root / f"{name}_mask.png", label)
        names(root)

    def spaces_and_umlauts(self, root, split, name, image, label):
        save(root / f"Meine Bilder (1)/{split}/straße {name}.png", image)
        save(root / f"Meine Bilder (1)/Masken/{split}/straße {name}.png", label)
        names(root)

    def upper_case_and_tiff(self, root, split, name, image, label):
        save(root / f"{split}/PHOTOS/{name}.JPG", image)
        save(root / f"{split}/GT/{name}.tif", label)
        names(root)

    def without_split(self, root, split, name, image, label):
        save(root / f"images/{name}.png", image)
        save(root / f"labels/{name}.png", label)
        (root / "codes.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(NAMES)))

    def prefixes(self, root, split, name, image, label):
        save(root / f"all/image_{name[1:]}.png", image)
        save(root / f"all/mask_{name[1:]}.bmp", label)
        names(root)

    def list_files(self, root, split, name, image, label):
        save(root / f"x/{name}.png", image)
        save(root / f"y/gt-{name}.png", label)
        names(root)
        with (root / f"{split}.txt").open("a") as file:
            file.write(f"x/{name}.png y/gt-{name}.png\n")


def names(root):
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))


def lists(root):
    folder = root / "ImageSets/Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


LAYOUTS = [name for name in vars(Layouts) if not name.startswith("_")]


def write_layout(root, layout, splits=SPLITS, size=SIZE):
    """Writes a layout; returns the train ids of each name, as the config of CamVid has them."""
    root.mkdir(parents=True)
    labels = {}
    pairs = examples(splits, size)
    for split, members in splits.items():
        for name in members:
            image, label = pairs[name]
            getattr(Layouts(), layout)(root, split, name, image, label)
            labels[name] = np.where(label == 11, 255, label).astype(np.uint8)
    return labels
