"""Reads annotations of MPII Human Pose: the release's .mat, or the files of its train/valid split.

Their pixels count from 1, those of `MpiiPerson` from 0.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.files.matlab import read_mat, read_struct
from data_pipelines.keypoints import MPII
from data_pipelines.sources.coco_entries import are_numbers, is_number

_NUM_JOINTS = len(MPII.names)
_ENTRY = "image, center (x, y), scale, joints (16 pairs x, y) and joints_vis (16 times 0 or 1)"
Keypoint = tuple[float, float, int]


@dataclass(frozen=True)
class MpiiPerson:
    """An annotated person.

    Attributes:
      image: file name of the image.
      center: x, y of the person's rough center, in pixels.
      scale: height of the person divided by 200 pixels.
      keypoints: x, y, v of the 16 joints; v is 0 for unlabeled joints, 1 for hidden ones.
      head_box: x1, y1, x2, y2 of the head, in pixels; () if unknown.
    """

    image: str
    center: tuple[float, float]
    scale: float
    keypoints: tuple[Keypoint, ...]
    head_box: tuple[float, ...] = ()


def parse_split(entries: Any, name: str) -> list[MpiiPerson]:
    """Parses train.json or valid.json, lists of persons. Raises DataError for an invalid entry."""
    if not isinstance(entries, list):
        raise DataError(f"{name} must be a list of persons; got {type(entries).__name__}.")
    return [_parse_entry(entry, f"{name}: entry {n}") for n, entry in enumerate(entries)]


def _parse_entry(entry: Any, location: str) -> MpiiPerson:
    values: dict[str, Any] = entry if isinstance(entry, dict) else {}
    joints: Any = values.get("joints")
    flags: Any = values.get("joints_vis")
    is_valid = (
        isinstance(values.get("image"), str)
        and are_numbers(values.get("center"), 2)
        and is_number(values.get("scale"))
        and isinstance(joints, list)
        and len(joints) == _NUM_JOINTS
        and all(are_numbers(joint, 2) for joint in joints)
        and are_numbers(flags, _NUM_JOINTS)
        and set(flags) <= {0, 1}
    )
    if not is_valid:
        raise DataError(f"{location} must have {_ENTRY}; got {entry!r:.80}.")
    return MpiiPerson(
        image=values["image"],
        center=_from_matlab(values["center"]),
        scale=float(values["scale"]),
        keypoints=tuple(
            (*_from_matlab(joint), 2) if flag else (0.0, 0.0, 0)
            for joint, flag in zip(joints, flags, strict=True)
        ),
    )


def add_truth(persons: Sequence[MpiiPerson], data: bytes, name: str) -> list[MpiiPerson]:
    """Returns the persons of valid.json with the joints and head boxes of gt_valid.mat.

    Raises:
      DataError: the file is invalid, or of another number of persons.
    """
    count = len(persons)
    arrays = []
    for variable, shape in (
        ("pos_gt_src", (_NUM_JOINTS, 2, count)),
        ("jnt_missing", (_NUM_JOINTS, count)),
        ("headboxes_src", (2, 2, count)),
    ):
        try:
            array = np.asarray(read_mat(data, variable), np.float64)
        except ValueError as error:
            raise DataError(f"{name} has no array {variable} ({error}). Replace it.") from None
        if array.shape != shape:
            raise DataError(
                f"{name}: {variable} must have shape {shape}, for the {count} persons of"
                f" valid.json; got {array.shape}. Use the two files of one split."
            )
        arrays.append(np.moveaxis(array, -1, 0))
    result = []
    for person, joints, missing, head in zip(persons, *arrays, strict=True):
        if not np.isfinite(head).all() or not np.isfinite(joints[missing == 0]).all():
            raise DataError(f"{name} has a joint or head box that is not finite. Replace it.")
        keypoints = tuple(
            (0.0, 0.0, 0) if is_missing else (*_from_matlab(joint), 2)
            for joint, is_missing in zip(joints.tolist(), missing.tolist(), strict=True)
        )
        head_box = tuple((head.ravel() - 1).tolist())
        result.append(replace(person, keypoints=keypoints, head_box=head_box))
    return result


def parse_release(data: bytes, name: str) -> tuple[list[MpiiPerson], list[str]]:
    """Parses the training images of mpii_human_pose_v1_u12_1.mat.

    Returns:
      The persons with center, scale, head box and joints, and messages about others.

    Raises:
      DataError: the file is damaged or another one, or a person is invalid.
    """
    persons: list[MpiiPerson] = []
    lacking: Counter[str] = Counter()
    try:
        release = read_struct(data, "RELEASE")
        annotations, is_train = (
            np.atleast_1d(_get(release, field)) for field in ("annolist", "img_train")
        )
        for annotation in annotations[is_train == 1]:
            (image,) = _structs(annotation, "image")
            image_name = str(_get(image, "name"))
            for rectangle in _structs(annotation, "annorect"):
                if missing := _missing_field(rectangle):
                    lacking[missing] += 1
                else:
                    persons.append(_parse_rectangle(image_name, rectangle, name))
    except DataError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{name} is not the release's annotation file ({error}). Download"
            " mpii_human_pose_v1_u12_2.zip again."
        ) from None
    notes = [f"{name}: {n} persons without {field} are left out" for field, n in lacking.items()]
    return persons, notes


def _missing_field(rectangle: Any) -> str:
    """Returns the first field that a person lacks; "": none."""
    for field in ("annopoints", "objpos"):
        if not _structs(rectangle, field):
            return field
    for field in ("scale", "x1", "y1", "x2", "y2"):
        if np.size(_get(rectangle, field)) != 1:
            return field
    return ""


def _parse_rectangle(image: str, rectangle: Any, name: str) -> MpiiPerson:
    """Parses a person of a release file. Raises DataError that names the image."""
    try:
        return _read_person(image, rectangle)
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{name}: a person of {image} is invalid ({error}). Correct or remove it."
        ) from None


def _read_person(image: str, rectangle: Any) -> MpiiPerson:
    (center,), (points,) = (_structs(rectangle, field) for field in ("objpos", "annopoints"))
    keypoints: list[Keypoint] = [(0.0, 0.0, 0)] * _NUM_JOINTS
    for point in _structs(points, "point"):
        position = _from_matlab([_number(point, "x"), _number(point, "y")])
        is_hidden = np.size(_get(point, "is_visible")) == 1 and not _number(point, "is_visible")
        keypoints[int(_number(point, "id"))] = (*position, 1 if is_hidden else 2)
    head = [_number(rectangle, field) - 1 for field in ("x1", "y1", "x2", "y2")]
    return MpiiPerson(
        image=image,
        center=_from_matlab([_number(center, "x"), _number(center, "y")]),
        scale=_number(rectangle, "scale"),
        keypoints=tuple(keypoints),
        head_box=tuple(head),
    )


def _structs(record: Any, field: str) -> list[Any]:
    """Returns the structs in a field; [] if it is absent or empty."""
    value = np.atleast_1d(_get(record, field))
    return list(value) if value.dtype.names else []


def _get(record: Any, field: str) -> Any:
    """Returns a field of a struct; an empty array if it is absent."""
    if field not in (record.dtype.names or ()):
        return np.zeros(0)
    value = record[field]
    while isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        value = value.item()
    return value


def _number(record: Any, field: str) -> float:
    """Returns a finite number of a struct, which may be text. Raises ValueError."""
    number = float(np.asarray(_get(record, field)).item())
    if not np.isfinite(number):
        raise ValueError(f"{field} is {number}")
    return number


def _from_matlab(point: Sequence[float]) -> tuple[float, float]:
    """Returns a point in pixels that count from 0."""
    x, y = point
    return float(x) - 1, float(y) - 1
