"""Persons out of prepared COCO keypoints: one sample a person, of ground truth or of a detector."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.files.images import decode_image
from data_pipelines.files.json import read_json
from data_pipelines.sources.audit import Inspection, Issue, unreadable
from data_pipelines.sources.boxes import box_outside, clip_box
from data_pipelines.sources.coco_entries import MAX_PERSONS, is_sample, parse_id
from data_pipelines.sources.coco_file import Category
from data_pipelines.sources.detections import read_detections
from data_pipelines.sources.image_audit import check_listed_size, image_warnings
from data_pipelines.sources.prepared import Prepared, open_prepared, stored_splits
from gsto_jax.image_files import Decoded


@dataclass(frozen=True)
class PersonSource:
    """Random access to persons of a split.

    Args:
        config: which dataset, and its joints. With `detections` a split's samples are the boxes
            of that file, without joints.
        split: "train" or "val".

    Attributes:
        category: of the persons, as the COCO file numbers it.
        notes: what people should know of the samples, a sentence each.

    Raises:
        DataError: the dataset or the file of detections is not there, or is something else.

    Example:
        >>> person = PersonSource(config, "val")[0]
        >>> person["joints"].shape
        (17, 2)
    """

    config: DataConfig
    split: str
    category: Category = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)
    _records: Prepared = field(init=False)
    _samples: Sequence[tuple[int, Any]] = field(init=False)
    _images: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        wanted = ("image", "image_id", "annotations", "height", "width")
        records = open_prepared(self.config.root, self.config.name, self.split, wanted)
        object.__setattr__(self, "_records", records)
        keypoints = self.config.keypoints
        assert keypoints is not None
        object.__setattr__(self, "category", self._read_category(keypoints.category))
        use_boxes = self.split == self.config.eval_split and keypoints.detections
        samples = self._detected(keypoints.detections) if use_boxes else self._annotated()
        if not samples:
            raise DataError(
                f"{self.split} of {records.folder} has no person with a labeled joint: give the"
                " boxes of a detector, --config.data.keypoints.detections=FILE."
            )
        limit = self.config.limit(self.split)
        images = _first_images(samples, limit) if limit else frozenset(range(len(records)))
        object.__setattr__(self, "_images", images)
        object.__setattr__(self, "_samples", [x for x in samples if x[0] in images])

    def missing_ground_truth(self) -> str:
        """Returns why poses cannot be scored, in words; "" where they can be."""
        samples = self._listed("samples")
        if any(samples[record] for record in self._images):
            return ""
        return (
            f"none of {len(self._images)} images of {self.split} has a {self.category.name}"
            " with a labeled joint: there will be no AP"
        )

    def _read_category(self, wanted: str) -> Category:
        """Returns the category that the dataset was prepared for."""
        path = self._records.folder / "category.json"
        try:
            values = read_json(path.read_bytes(), path)
            category = Category(parse_id(values["id"], str(path)), str(values["name"]))
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise DataError(
                f"{self._records.folder} lacks its category ({error}); remove the folder and"
                " prepare the dataset again."
            ) from None
        if wanted and not category.is_called(wanted):
            raise DataError(
                f"{self._records.folder} holds persons of category {category}, and"
                f" config.data.keypoints.category is {wanted!r}; prepare the dataset with it in"
                " another --config.data.root."
            )
        return category

    def _annotated(self) -> list[tuple[int, Any]]:
        """Record and number of the person in it, for each sample."""
        counts = self._listed("samples")
        if not all(0 <= count <= MAX_PERSONS for count in counts):
            raise DataError(
                f"{self._records.folder} says that an image has {max(counts)} or {min(counts)}"
                " persons; remove the folder and prepare the dataset again."
            )
        return [(record, nth) for record, count in enumerate(counts) for nth in range(count)]

    def _listed(self, kind: str) -> list[int]:
        """A number for each record, out of a file beside them."""
        paths = (self._records.folder / f"{kind}-{part}.json" for part in stored_splits(self.split))
        try:
            listed = [number for path in paths for number in read_json(path.read_bytes(), path)]
            if len(listed) != len(self._records) or not all(type(n) is int for n in listed):
                raise ValueError(f"it does not hold one number for each of the {kind}")
            return listed
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{self._records.folder} lacks a list of its {kind} ({error}); remove the folder"
                " and prepare the dataset again."
            ) from None

    def _detected(self, detections: str) -> list[tuple[int, Any]]:
        """Record and detection, for each box of a person."""
        of_image = {image_id: n for n, image_id in enumerate(self._image_ids())}
        path = Path(detections).expanduser()
        boxes, notes = read_detections(path, self.category, of_image, self.split)
        self.notes.extend(notes)
        return boxes

    def _image_ids(self) -> list[int]:
        """Returns the id of each record's image. Raises DataError if two have the same."""
        ids = self._listed("image_ids")
        repeated, count = Counter(ids).most_common(1)[0] if ids else (0, 0)
        if count > 1:
            raise DataError(
                f"{count} images of {self.split} in {self._records.folder} have the id {repeated},"
                " so their persons cannot be told apart; evaluate on one split, or number them anew"
                " and prepare again."
            )
        return ids

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `data_pipelines.pipeline.Source`."""
        return (*self.notes, *filter(None, [self.missing_ground_truth()]))

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """Returns a name to save results under."""
        record, which = self._samples[index]
        name = self._records.name(record)
        return f"{name}_{which}" if isinstance(which, int) else f"{name}_box{index}"

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of what is cut out of the image."""
        return self.config.crop

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a person.

        Returns:
            image: `h w 3` uint8 RGB; joints: float32 `j 2`, x and y in pixels of the image, its
            first pixel's center at 0; visible: float32 `j`, 1 for a labeled joint; box: float32
            (4,) x, y, w, h; area: float, of the person in square pixels (a detection's box's);
            score: float; image_id, person_id: int (-1 for a detection); index.

        Raises:
            DataError: the record is damaged, or has another number of joints.
            IndexError: there is no such person.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, which = self._samples[index]
        record, name = self._records[number], self._called(number)
        image = self._decode(record, name).pixels
        names = self.config.keypoints.names if self.config.keypoints else ()
        if isinstance(which, int):
            person, keypoints = self._person(record["annotations"], which, name)
            if len(keypoints) != len(names):
                raise DataError(
                    f"The {name} has {len(keypoints)} joints, the configuration {len(names)}."
                )
            box = clip_box(person["bbox"], image.shape)
        else:
            person, keypoints = which, np.zeros((len(names), 3), np.float32)
            box = tuple(person["bbox"])  # as the detector gave it, like the published evaluation
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
        """Decodes the image of a record, of the size that its annotations are of."""
        rule = self.config.decode_options
        decoded = decode_image(record["image"], f"the image of {name}", rule)
        listed = int(record.get("height", 0)), int(record.get("width", 0))
        check_listed_size(f"The image of {name}", decoded, rule, listed)
        return decoded

    def _called(self, number: int) -> str:
        """A record, as messages name it."""
        return f"record {self._records.name(number)} of {self._records.folder}"

    @staticmethod
    def _person(annotations: bytes, which: int, name: str) -> tuple[dict[str, Any], np.ndarray]:
        """One person out of the text of a record, and its keypoints `j 3`."""
        try:
            persons = read_json(annotations, f"the annotations of {name}")
            person = [person for person in persons if is_sample(person)][which]
            numbers = (*person["bbox"], person["area"], person["id"])
            if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
                raise ValueError(f"box, area and id are {numbers}")
            return person, np.asarray(person["keypoints"], np.float32).reshape(-1, 3)
        except DataError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise DataError(
                f"The annotations of {name} are damaged ({error}); remove the folder and prepare"
                " the dataset again."
            ) from None

    def annotations(self) -> list[dict[str, Any]]:
        """Returns every annotation of the split, as published: what COCO's evaluation needs."""
        found: list[dict[str, Any]] = []
        for index in range(len(self._records)):
            name = self._called(index)
            persons = read_json(self._records[index]["annotations"], f"the annotations of {name}")
            if not isinstance(persons, list):
                raise DataError(
                    f"The annotations of {name} are damaged; remove the folder and prepare the data"
                    " set again."
                )
            found += persons
        return found

    def image_ids(self) -> list[int]:
        """Returns the ids of all images of the split, or of those that a limit leaves."""
        listed = enumerate(self._image_ids())
        return [image_id for record, image_id in listed if record in self._images]

    def inspect(self, index: int) -> Inspection:
        """Reads a person, and tells which joints are labeled."""
        name = self.name(index)
        try:
            sample = self[index]
        except (DataError, ValueError) as error:
            return Inspection(name, problems=(unreadable(name, error),))
        height, width = sample["image"].shape[:2]
        seen = sample["visible"] > 0
        x, y = sample["joints"][seen].T
        box, problems = sample["box"].tolist(), []
        if ((x < 0) | (y < 0) | (x > width) | (y > height)).any():
            problems.append(Issue(name, "a joint outside its image"))
        if box_outside(box, (height, width)):
            detail = f"{box} in {width}x{height} pixels"
            remedy = "give x, y, w, h in pixels of the image"
            problems.append(Issue(name, "a box outside its image", detail, remedy))
        labeled = {k: 1 for k in np.flatnonzero(seen).tolist()}
        warnings = self._image_warnings(index)
        return Inspection(name, labeled, problems=tuple(problems), warnings=warnings)

    def _image_warnings(self, index: int) -> tuple[Issue, ...]:
        """Finds what looks wrong about an image; once, with the first person in it."""
        number, _ = self._samples[index]
        if index > 0 and self._samples[index - 1][0] == number:
            return ()
        decoded = self._decode(self._records[number], self._called(number))
        return image_warnings(self._records.name(number), decoded, self.config.decode_options)


def _first_images(samples: Sequence[tuple[int, Any]], limit: int) -> frozenset[int]:
    """The first records that hold so many samples: an image counts whole or not at all."""
    counts = Counter(record for record, _ in samples)
    chosen: list[int] = []
    for record in counts:
        if sum(counts[n] for n in chosen) >= limit:
            break
        chosen.append(record)
    return frozenset(chosen)
