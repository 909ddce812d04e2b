"""Small downloads in the official layouts."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import scipy.sparse
from PIL import Image

from data_pipelines import MAPILLARY, PASCAL_CONTEXT_59


def image_bytes(seed: int, size=(40, 60), kind=".png") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return cv2.imencode(kind, cv2.GaussianBlur(noise, (5, 5), 0))[1].tobytes()


def png(ids) -> bytes:
    return cv2.imencode(".png", np.asarray(ids))[1].tobytes()


def mat(ids) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"LabelMap": ids}, do_compression=True)
    return file.getvalue()


def blocks(values, size=(40, 60)) -> np.ndarray:
    """Returns an image of vertical stripes of the values."""
    columns = np.asarray(values)[np.arange(size[1]) * len(values) // size[1]]
    return np.broadcast_to(columns, size).copy()


def cityscapes_files(counts=(("train", 5), ("val", 3), ("test", 2)), size=(40, 60)) -> dict:
    files = {"leftImg8bit/license.txt": b"", "gtFine/README": b""}
    for split, count in counts:
        for n in range(count):
            name = f"{split}/ulm/ulm_{n:06d}_000019"
            files[f"leftImg8bit/{name}_leftImg8bit.png"] = image_bytes(n, size)
            truth = f"gtFine/{name}_gtFine"
            files[f"{truth}_labelIds.png"] = png(blocks([7, 26, 24, 0, n], size).astype(np.uint8))
            instances = blocks([7, 26000, 24001, 0, n], size).astype(np.uint16)
            files[f"{truth}_instanceIds.png"] = png(instances)
            files[f"{truth}_color.png"] = image_bytes(0, size)
    return files


def lip_files(count=3) -> dict:
    files = {}
    for split in ("train", "val"):
        names = [f"{n}_{split}" for n in range(count)]
        files[f"{split}_id.txt"] = "\n".join(names).encode()
        for n, name in enumerate(names):
            size = (50 + n, 30)
            pixels = image_bytes(n, size, ".jpg")
            files[f"TrainVal_images/{split}_images/{name}.jpg"] = pixels
            label = png(blocks([0, 14, 15, 18], size).astype(np.uint8))
            files[f"TrainVal_parsing_annotations/{split}_segmentations/{name}.png"] = label
    return files


def context_names() -> dict[int, str]:
    """Returns 459 names by id, the 59 classes among them."""
    names = {n: f"thing{n}" for n in range(1, 460)}
    ids_of_classes = np.random.default_rng(1).permutation(np.arange(1, 460))[:59].tolist()
    return names | dict(zip(ids_of_classes, PASCAL_CONTEXT_59.names, strict=True))


def context_files(kind: str, count=2) -> dict:
    """`kind`: "mat" or "png"; the label of image n shows background, class 1 + n and class 59."""
    files = {}
    by_name = {name: n for n, name in context_names().items()}
    if kind == "mat":
        listed = "".join(f"{n}: {name}\n" for n, name in context_names().items())
        files["labels.txt"] = listed.encode()
    for split in ("train", "val"):
        names = [f"20{'08' if split == 'train' else '09'}_{n:06d}" for n in range(count)]
        files[f"VOCdevkit/VOC2010/ImageSets/Main/{split}.txt"] = "\n".join(names).encode()
        for n, name in enumerate(names):
            files[f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg"] = image_bytes(n, kind=".jpg")
            if kind == "mat":
                class_names = [PASCAL_CONTEXT_59.names[n], PASCAL_CONTEXT_59.names[58]]
                none = next(k for k, other in context_names().items() if other.startswith("thing"))
                ids = blocks([none, *(by_name[name] for name in class_names)]).astype(np.uint16)
                files[f"trainval/{name}.mat"] = mat(ids)
            else:
                ids = blocks([0, 1 + n, 59]).astype(np.uint8)
                files[f"SegmentationClassContext/{name}.png"] = png(ids)
    return files


def palette_png(ids) -> bytes:
    """Returns a PNG of palette indices, whose colors are the indices in reverse order."""
    image = Image.fromarray(np.asarray(ids).astype(np.uint8), "P")
    image.putpalette([255 - n // 3 for n in range(768)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def ade20k_files(count=2) -> dict:
    """The label of image n shows 0 (another object), class 1 + n and class 150."""
    files = {}
    for split, prefix in (("training", "train"), ("validation", "val")):
        for n in range(count):
            path = f"{split}/ADE_{prefix}_{n + 1:08d}"
            files[f"ADEChallengeData2016/images/{path}.jpg"] = image_bytes(n, kind=".jpg")
            ids = blocks([0, 1 + n, 150]).astype(np.uint8)
            files[f"ADEChallengeData2016/annotations/{path}.png"] = png(ids)
    return files


def coco_stuff_files() -> dict:
    """Two images of train and one of val; the label of image n shows the ids n, 181 and 255."""
    files = {}
    for split, numbers in (("train", (9, 25)), ("val", (139,))):
        for n, number in enumerate(numbers):
            name = f"{split}2017/{number:012d}"
            files[f"{name}.jpg"] = image_bytes(n, kind=".jpg")
            files[f"stuffthingmaps/{name}.png"] = png(blocks([n, 181, 255]).astype(np.uint8))
    return files


def mapillary_files(version="", size=(40, 60)) -> dict:
    """One image of each split, with the ids 0, 64 and 65. `version`: "v1.2/" as in version 2.0."""
    labels = [{"readable": name} for name in (*MAPILLARY.names, "Unlabeled")]
    config = "config_v1.2.json" if version else "config.json"
    files = {config: json.dumps({"version": "1.2", "labels": labels}).encode()}
    for n, split in enumerate(("training", "validation")):
        name = f"street_{n}"
        files[f"{split}/images/{name}.jpg"] = image_bytes(n, size, ".jpg")
        files[f"{split}/{version}labels/{name}.png"] = palette_png(blocks([0, 64, 65], size))
        instances = blocks([0, 64 * 256, 65 * 256], size).astype(np.uint16)
        files[f"{split}/{version}instances/{name}.png"] = png(instances)
        if version:
            files[f"{split}/v2.0/labels/{name}.png"] = palette_png(blocks([0, 123], size))
    return files


def voc_files(sbd: str = "mat") -> dict:
    """Two images of train, one of val, and SBD with one of each and two others.

    The label of image n shows background, class 1 + n and 255; that of SBD background and class 20.
    `sbd`: "mat", "png" or "" (none).
    """
    splits = {"train": ["2007_000001", "2007_000002"], "val": ["2007_000003"]}
    others = ["2008_000004", "2008_000005"]
    voc, files = "VOCdevkit/VOC2012", {}
    for split, names in splits.items():
        files[f"{voc}/ImageSets/Segmentation/{split}.txt"] = "\n".join(names).encode()
        for name in names:
            ids = blocks([0, int(name[-1]), 255])
            files[f"{voc}/SegmentationClass/{name}.png"] = palette_png(ids)
    for n, name in enumerate([*splits["train"], *splits["val"], *others]):
        files[f"{voc}/JPEGImages/{name}.jpg"] = image_bytes(n, kind=".jpg")
    for name in ["2007_000001", "2007_000003", *others]:
        ids = blocks([0, 20]).astype(np.uint8)
        if sbd == "mat":
            file = io.BytesIO()
            edges = np.empty((20, 1), object)
            edges[:] = [[scipy.sparse.csc_matrix(ids == 20)] for _ in range(20)]
            fields = {"Boundaries": edges, "Segmentation": ids, "CategoriesPresent": [[20]]}
            scipy.io.savemat(file, {"GTcls": fields}, do_compression=True)
            files[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = file.getvalue()
        elif sbd == "png":
            files[f"SegmentationClassAug/{name}.png"] = png(ids)
    return files


def person(number, image_id, box=(10.0, 5.0, 20.0, 30.0), labeled=17, **changes) -> dict:
    joints = []
    for k in range(17):
        joints += [box[0] + k, box[1] + k, 2 if k % 2 else 1] if k < labeled else [0, 0, 0]
    fields = {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": list(box),
        "area": box[2] * box[3] / 2,
        "iscrowd": 0,
        "num_keypoints": labeled,
        "keypoints": joints,
        "segmentation": [],
    }
    return fields | changes


def coco_files() -> dict:
    """Train: two persons, a crowd, one without joints, an empty image. Val: one person."""
    files = {}
    for split, persons in (
        (
            "train",
            [
                person(1, 1),
                person(2, 1, (30.0, 2.0, 25.0, 20.0), labeled=3),
                person(3, 2, iscrowd=1),
                person(4, 2, labeled=0),
                person(5, 3),
            ],
        ),
        ("val", [person(6, 11)]),
    ):
        ids = [1, 2, 3, 4] if split == "train" else [11, 12]
        images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 60, "height": 40} for n in ids]
        content = {"images": images, "annotations": persons, "categories": []}
        files[f"annotations/person_keypoints_{split}2017.json"] = json.dumps(content).encode()
        for n in ids:
            files[f"{split}2017/{n:012d}.jpg"] = image_bytes(n, kind=".jpg")
    return files


def write_tree(root: Path, files: dict) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zips(root: Path, files: dict, archive_of=lambda name: name.split("/")[0]) -> Path:
    """Writes one zip per top-level folder; other files are not packed."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if "/" not in name:
            (root / name).write_bytes(data)
            continue
        with zipfile.ZipFile(root / f"{archive_of(name)}.zip", "a") as archive:
            archive.writestr(name, data)
    return root


def write_tars(root: Path, files: dict) -> Path:
    """Writes a tar of the images and a compressed tar of the labels, as for Pascal Context."""
    root.mkdir(parents=True, exist_ok=True)
    with (
        tarfile.open(root / "VOCtrainval_03-May-2010.tar", "w") as images,
        tarfile.open(root / "trainval.tar.gz", "w:gz") as labels,
    ):
        for name, data in files.items():
            if "/" not in name:
                (root / name).write_bytes(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            (images if name.startswith("VOC") else labels).addfile(info, io.BytesIO(data))
    return root
