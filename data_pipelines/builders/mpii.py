"""MPII Human Pose: the train/valid split of train.json and valid.json, or the release's .mat."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from data_pipelines.builders.builder import Item, count_others, wrong_downloads_error
from data_pipelines.builders.coco_keypoints import CocoKeypointsBuilder, item_values
from data_pipelines.builders.mpii_files import (
    MpiiPerson,
    add_truth,
    parse_release,
    parse_split,
)
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.sources.coco_entries import Person, is_sample
from data_pipelines.sources.coco_file import Category

_CATEGORY = Category(1, "person")
_HEIGHT = 200  # pixels of a person of scale 1
_SHIFT = 15  # pixels by which the center of a person of scale 1 moves down, as published


@dataclass(frozen=True, kw_only=True)
class MpiiBuilder(CocoKeypointsBuilder):
    """Makes one record per image, with its persons as COCO annotations.

    The box of a person is the square of the published recipe, before its padding of a quarter.
    `head_box` is x1, y1, x2, y2 of the head, where known.
    """

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        splits = _read_splits(downloads)
        images = {match["name"]: match[0] for match in downloads.match(r"(?P<name>[^/]+\.jpg)")}
        names = sorted({person.image for persons in splits.values() for person in persons})
        if missing := [name for name in names if name not in images]:
            raise DataError(
                f"{downloads.source} lacks the image {missing[0]}{count_others(missing)}. Put"
                " images/, or mpii_human_pose_v1.tar.gz, beside the annotations."
            )
        image_ids = {name: n for n, name in enumerate(names, 1)}
        numbers = itertools.count(1)
        items: dict[str, list[Item]] = {}
        for split, persons in splits.items():
            annotations: dict[str, list[Person]] = {}
            for person in persons:
                annotation = _to_annotation(person, next(numbers), image_ids[person.image])
                annotations.setdefault(person.image, []).append(annotation)
            items[split] = [
                Item(
                    PurePosixPath(name).stem,
                    images[name],
                    extra=item_values(image_ids[name], entries, _CATEGORY),
                )
                for name, entries in sorted(annotations.items())
                if any(map(is_sample, entries))
            ]
        return items


def _read_splits(downloads: Downloads) -> dict[str, list[MpiiPerson]]:
    """Returns the persons of each split."""
    splits: dict[str, list[MpiiPerson]] = {}
    files = {
        name: _only_file(downloads, pattern)
        for name, pattern in (
            ("train", r"train\.json"),
            ("val", r"valid\.json"),
            ("truth", r"gt_valid\.mat"),
            ("release", r"mpii_human_pose_v1_u12_1\.mat"),
        )
    }
    for split in ("train", "val"):
        if name := files[split]:
            splits[split] = parse_split(downloads.read_json(name), name)
    if "val" in splits:
        if not files["truth"]:
            raise DataError(
                f"{downloads.source} has {files['val']} without gt_valid.mat, which has the head"
                " boxes of PCKh. Put it beside."
            )
        splits["val"] = add_truth(splits["val"], downloads.read(files["truth"]), files["truth"])
    elif not splits and files["release"]:
        name = files["release"]
        splits["train"], notes = parse_release(downloads.read(name), name)
        downloads.notes += notes
    if not splits:
        raise wrong_downloads_error(
            downloads,
            "annot/ (train.json, valid.json, gt_valid.mat) or mpii_human_pose_v1_u12_1.mat, and"
            " images/",
        )
    return {split: _usable(downloads, split, persons) for split, persons in splits.items()}


def _only_file(downloads: Downloads, pattern: str) -> str:
    """Returns the path of a file; "" if it is missing. Raises DataError if there are several."""
    paths = [match[0] for match in downloads.match(pattern)]
    if len(paths) > 1:
        raise DataError(f"{downloads.source} has {paths[0]} and {paths[1]}; keep one of them.")
    return paths[0] if paths else ""


def _usable(downloads: Downloads, split: str, persons: Sequence[MpiiPerson]) -> list[MpiiPerson]:
    """Returns the persons with a scale; notes the number of others."""
    usable = [person for person in persons if person.scale > 0]
    if len(usable) < len(persons):
        count = len(persons) - len(usable)
        downloads.notes.append(f"{count} persons of {split} without a scale are left out")
    return usable


def _to_annotation(person: MpiiPerson, number: int, image_id: int) -> Person:
    """Returns a person as a COCO annotation."""
    side = _HEIGHT * person.scale
    x, y = person.center[0], person.center[1] + _SHIFT * person.scale
    head: Mapping[str, list[float]] = {"head_box": [*person.head_box]} if person.head_box else {}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": _CATEGORY.id,
        "bbox": [x - side / 2, y - side / 2, side, side],
        "area": side**2,
        "iscrowd": 0,
        "keypoints": [value for keypoint in person.keypoints for value in keypoint],
        "num_keypoints": sum(v > 0 for *_, v in person.keypoints),
        **head,
    }


mpii = partial(
    MpiiBuilder,
    name="mpii",
    homepage="http://human-pose.mpi-inf.mpg.de",
    counts={"train": 22246, "val": 2958},
    unit="persons",
    storages=("files",),
    shard_size=1024,
)
