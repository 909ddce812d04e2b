"""Persons of prepared COCO keypoint datasets: one example per annotated or detected box."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.images import decode_image, format_size
from data_pipelines.files.json import read_json
from data_pipelines.sources.boxes import clip_box, is_outside
from data_pipelines.sources.coco_entries import MAX_PERSONS, is_sample, parse_id
from data_pipelines.sources.coco_file import Category
from data_pipelines.sources.detections import Detection, read_detections
from data_pipelines.sources.fraction import own_files_error, split_members
from data_pipelines.sources.image_checks import check_annotated_size, image_warnings
from data_pipelines.sources.prepared import PREPARE_AGAIN, open_prepared, stored_splits
from data_pipelines.sources.stats import Issue, LabelStats, unreadable
from gsto_jax.image_files import Decoded
from gsto_jax.storage import to_path

_Sample = tuple[int, int | Detection]
"""Index of a record, and which of its persons with labeled joints, or a detection."""


class PersonSource:
    """Random access to the persons of a split.

    Args:
      config: the dataset and its joints. With `keypoints.detections` the samples of the evaluation
        split are the boxes of that file, without joints.
      split: name of the split, such as "train" or "val". With `val_fraction` whole images belong
        to either split, with all their persons.

    Attributes:
      category: category of the persons in the COCO file.
      notes: messages about detections left out.

    Raises:
      DataError: the dataset or the detections are missing or invalid.

    Example:
      >>> person = PersonSource(config, "val")[0]
      >>> person["joints"].shape
      (17, 2)
    """

    def __init__(self, config: DataConfig, split: str) -> None:
        assert config.keypoints is not None
        self.config, self.split, self._keypoints = config, split, config.keypoints
        features = ("image", "image_id", "annotations", "height", "width")
        self._stored_split = config.stored_split(split)
        self._records = open_prepared(config.root, config.name, self._stored_split, features)
        if split != self._stored_split and split in self._records.splits:
            raise own_files_error(config, split, f"Split {split!r} of {self._records.folder}")
        names = [self._records.name(record) for record in range(len(self._records))]
        self._members = frozenset(split_members(names, config, split))
        self.category = self._read_category()
        self.notes: list[str] = []
        uses_detections = split == config.eval_split and self._keypoints.detections
        samples = self._detected_samples() if uses_detections else self._annotated_samples()
        if not samples:
            raise DataError(
                f"{split} of {self._records.folder} has no person with a labeled joint. Pass the"
                " boxes of a detector with --config.data.keypoints.detections=FILE."
            )
        limit = config.limit(split)
        self._used_records = _first_records(samples, limit) if limit else self._members
        self._samples = [sample for sample in samples if sample[0] in self._used_records]

    def _read_category(self) -> Category:
        """Reads the category that the dataset was prepared for."""
        folder, configured = self._records.folder, self._keypoints.category
        path = folder / "category.json"
        try:
            values = read_json(path.read_bytes(), path)
            category = Category(parse_id(values["id"], str(path)), str(values["name"]))
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise DataError(f"{folder} lacks its category ({error}). {PREPARE_AGAIN}") from None
        if configured and not category.is_called(configured):
            raise DataError(
                f"config.data.keypoints.category must be that of {folder}, {category}; got"
                f" {configured!r}. Prepare the dataset with it in another --config.data.root."
            )
        return category

    def _annotated_samples(self) -> list[_Sample]:
        counts = self._read_list("samples")
        if not all(0 <= count <= MAX_PERSONS for count in counts):
            raise DataError(
                f"{self._records.folder} must have 0 to {MAX_PERSONS} persons per image; got"
                f" {min(counts)} to {max(counts)}. {PREPARE_AGAIN}"
            )
        records = sorted(self._members)
        return [(record, person) for record in records for person in range(counts[record])]

    def _detected_samples(self) -> list[_Sample]:
        ids = enumerate(self._read_image_ids())
        records = {image_id: record for record, image_id in ids if record in self._members}
        path = to_path(self._keypoints.detections, "config.data.keypoints.detections")
        samples, notes = read_detections(path, self.category, records, self.split)
        self.notes.extend(notes)
        return [*samples]

    def _read_list(self, name: str) -> list[int]:
        """Reads a file beside the records that contains an integer per record."""
        folder = self._records.folder
        paths = (folder / f"{name}-{part}.json" for part in stored_splits(self._stored_split))
        try:
            values = [value for path in paths for value in read_json(path.read_bytes(), path)]
            if len(values) != len(self._records) or not all(type(x) is int for x in values):
                raise ValueError("it must contain an integer per record")
            return values
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{folder} lacks the list of its {name} ({error}). {PREPARE_AGAIN}"
            ) from None

    def _read_image_ids(self) -> list[int]:
        """Returns the image id of each record. Raises DataError if two are equal."""
        ids = self._read_list("image_ids")
        repeated, count = Counter(ids).most_common(1)[0] if ids else (0, 0)
        if count > 1:
            raise DataError(
                f"{count} images of {self.split} in {self._records.folder} have the id {repeated},"
                " so their persons are ambiguous. Evaluate on one split, or use unique image ids"
                " and prepare again."
            )
        return ids

    @property
    def warnings(self) -> tuple[str, ...]:
        """Messages about detections left out, and about missing ground truth."""
        counts = self._read_list("samples")
        if any(counts[record] for record in self._used_records):
            return tuple(self.notes)
        return (
            *self.notes,
            f"none of {len(self._used_records)} images of {self.split} has a {self.category.name}"
            " with a labeled joint: there will be no score",
        )

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """Returns the name under which results of a person are saved."""
        record, person = self._samples[index]
        name = self._records.name(record)
        return f"{name}_{person}" if isinstance(person, int) else f"{name}_box{index}"

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of the crop."""
        return self.config.crop

    def stored_bytes(self, index: int) -> int:
        """Reads the record of a person's image; returns its size in bytes."""
        return self._records.stored_bytes(self._samples[index][0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a person.

        Returns:
          image: `h w 3` uint8 RGB.
          joints: float32 `j 2`, x and y in pixels; (0, 0) is the center of the first pixel.
          visible: float32 `j`, 1 for labeled joints.
          box: float32 (4,), x, y, w, h in pixels.
          area: float, area of the person in square pixels; of a detection, the area of the box.
          score: float, of a detection; else 1.
          image_id, person_id: int; person_id is -1 for a detection.
          index: int.

        Raises:
          DataError: the record is damaged or has another number of joints.
          IndexError: no such person.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        record_index, which = self._samples[index]
        record, name = self._records[record_index], self._records.describe(record_index)
        image = self._decode(record, name).pixels
        num_joints = len(self._keypoints.names)
        if isinstance(which, int):
            person, keypoints = _parse_person(record["annotations"], which, name)
            if len(keypoints) != num_joints:
                raise DataError(
                    f"The {name} has {len(keypoints)} joints; config.data.keypoints.names has"
                    f" {num_joints}."
                )
            box = tuple(person["bbox"])
            if self._keypoints.clip_boxes:
                box = clip_box(box, image.shape)
        else:
            person, keypoints = which, np.zeros((num_joints, 3), np.float32)
            box = tuple(person["bbox"])  # not clipped, like the published evaluation
        return {
            "image": image,
            "joints": keypoints[:, :2],
            "visible": (keypoints[:, 2] > 0).astype(np.float32),
            "box": np.asarray(box, np.float32),
            "area": float(person.get("area", box[2] * box[3])),
            "score": float(person.get("score", 1.0)),
            "image_id": int(record["image_id"]),
            "person_id": int(person.get("id", -1)),
            "index": int(index),
        }

    def _decode(self, record: dict[str, Any], name: str) -> Decoded:
        """Decodes the image of a record and compares its size with the annotated size."""
        options = self.config.decode_options
        decoded = decode_image(record["image"], f"the image of {name}", options)
        annotated = int(record.get("height", 0)), int(record.get("width", 0))
        check_annotated_size(f"The image of {name}", decoded.header, options, annotated)
        return decoded

    def annotations(self) -> list[dict[str, Any]]:
        """Returns all annotations of the stored split as published, for COCO's evaluation."""
        annotations: list[dict[str, Any]] = []
        for index in range(len(self._records)):
            name = f"the annotations of {self._records.describe(index)}"
            persons = read_json(self._records[index]["annotations"], name)
            if not isinstance(persons, list):
                raise DataError(f"{name} are damaged. {PREPARE_AGAIN}")
            annotations += persons
        return annotations

    def image_ids(self) -> list[int]:
        """Returns the ids of the images in use: all of the split, or those within the limit."""
        ids = enumerate(self._read_image_ids())
        return [image_id for record, image_id in ids if record in self._used_records]

    def inspect(self, index: int) -> LabelStats:
        """Returns the labeled joints and the issues of a person."""
        name = self.name(index)
        try:
            sample = self[index]
        except (DataError, ValueError) as error:
            return LabelStats.from_record(name, problems=[unreadable(name, error)])
        image, box = sample["image"], sample["box"].tolist()
        labeled = sample["visible"] > 0
        x, y = sample["joints"][labeled].T
        problems = []
        distance = np.max([-x, x - image.shape[1], -y, y - image.shape[0]], axis=0)
        # Faces and hands at the border of an image have joints a little outside.
        if (distance > max(box[2:])).any():
            problems.append(Issue(name, "a joint outside its image by more than its box is long"))
        if is_outside(box, image.shape):
            detail = f"{box} in {format_size(image)} pixels"
            remedy = "use x, y, w, h in pixels of the image"
            problems.append(Issue(name, "a box outside its image", detail, remedy))
        return LabelStats.from_record(
            name,
            dict.fromkeys(np.flatnonzero(labeled).tolist(), 1),
            problems=problems,
            warnings=self._image_warnings(index),
        )

    def _image_warnings(self, index: int) -> list[Issue]:
        """Returns the issues of a person's image, with the first person in it only."""
        record, _ = self._samples[index]
        if index > 0 and self._samples[index - 1][0] == record:
            return []
        decoded = self._decode(self._records[record], self._records.describe(record))
        return image_warnings(self._records.name(record), decoded, self.config.decode_options)


def _parse_person(annotations: bytes, which: int, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """Returns one person of a record's annotations, and its keypoints `j 3`."""
    try:
        persons = read_json(annotations, f"the annotations of {name}")
        person = [person for person in persons if is_sample(person)][which]
        values = (*person["bbox"], person["area"], person["id"])
        if len(values) != 6 or not all(map(math.isfinite, values)):
            raise ValueError(f"box, area and id are {values}")
        return person, np.asarray(person["keypoints"], np.float32).reshape(-1, 3)
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"The annotations of {name} are damaged ({error}). {PREPARE_AGAIN}"
        ) from None


def _first_records(samples: Sequence[_Sample], limit: int) -> frozenset[int]:
    """Returns the first records that together contain at least `limit` samples."""
    counts = Counter(record for record, _ in samples)
    records: list[int] = []
    total = 0
    for record, count in counts.items():
        if total >= limit:
            break
        records.append(record)
        total += count
    return frozenset(records)
