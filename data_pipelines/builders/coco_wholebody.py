"""COCO-WholeBody: `coco_wholebody_*_v1.0.json` and COCO's images."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from data_pipelines.builders.coco_keypoints import CocoKeypointsBuilder
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.keypoints import COCO_KEYPOINTS, COCO_WHOLEBODY, WHOLEBODY_PARTS
from data_pipelines.sources.coco_entries import are_numbers
from data_pipelines.sources.coco_file import read_entries

_FILES = {split: f"coco_wholebody_{split}_v1.0.json" for split in ("train", "val")}


@dataclass(frozen=True, kw_only=True)
class WholeBodyBuilder(CocoKeypointsBuilder):
    """Makes records as `CocoKeypointsBuilder`, with the 133 joints of all parts as keypoints."""

    def describe_incomplete(self, counts: Mapping[str, int]) -> str:
        """See `Builder.describe_incomplete`: no counts of persons are published."""
        missing = [name for split, name in _FILES.items() if split not in counts]
        return f"it lacks {' and '.join(missing)}" if missing else ""

    def read_content(self, downloads: Downloads, name: str) -> Any:
        """See `CocoKeypointsBuilder.read_content`."""
        content = downloads.read_json(name)
        for number, entry in enumerate(read_entries(content, "annotations", name)):
            location = f"{name}: annotation {entry.get('id')!r:.40} (entry {number})"
            content["annotations"][number] = {**entry, "keypoints": join_parts(entry, location)}
        read_entries(content, "categories", name)
        for category in content["categories"]:
            if category.get("keypoints") == list(COCO_KEYPOINTS.names):  # those of the body only
                category["keypoints"] = list(COCO_WHOLEBODY.names)
        return content


def join_parts(entry: Mapping[str, Any], location: str) -> list[float]:
    """Returns x, y, v of the joints of body, feet, face, left and right hand.

    Flags of parts may be fractions: any above 0 marks a labeled joint. Joints of a part that is
    not valid are not labeled.

    Raises:
      DataError: a part is missing, or is not a list of x, y, v for each of its joints.
    """
    keypoints = entry.get("keypoints")
    body = 3 * len(COCO_KEYPOINTS.names)
    if not isinstance(keypoints, list) or len(keypoints) != body:
        raise DataError(f"{location}: keypoints must be {body} numbers; got {keypoints!r:.60}.")
    joined = list(keypoints)
    for part, count in WHOLEBODY_PARTS.items():
        name, flag = f"{part}_kpts", f"{part}_valid"
        values = entry.get(name)
        if not isinstance(values, list) or not are_numbers(values, 3 * count):
            raise DataError(
                f"{location}: {name} must be x, y, v for each of {count} joints; got"
                f" {values!r:.60}. Use coco_wholebody_train_v1.0.json and ..._val_v1.0.json."
            )
        is_valid = bool(entry.get(flag))
        for n in range(0, 3 * count, 3):
            x, y, v = values[n : n + 3]
            joined += [x, y, 2 if v >= 2 else 1] if is_valid and v > 0 else [0, 0, 0]
    return joined


coco_wholebody = partial(
    WholeBodyBuilder,
    name="coco_wholebody",
    homepage="https://github.com/jin-s13/COCO-WholeBody",
    counts={},
    unit="persons",
    storages=("files",),
    shard_size=1024,
    file_pattern=r"coco_wholebody_(?P<split>train|val)_v1\.0\.json",
    expected_files=f"{', '.join(_FILES.values())}, train2017.zip and val2017.zip, or the folders"
    " train2017/ and val2017/",
)
