"""Poses as COCO's benchmark takes and scores them (needs pycocotools, from the `train` extra)."""

import contextlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.config import PoseConfig
from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write, to_json
from gsto_jax.pose.evaluate import Poses
from gsto_jax.pose.oks import rescore, suppress

COCO_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""Average precision and recall over similarities 0.5 to 0.95, at 0.5 and 0.75, and of persons of
medium and large area."""
PERSON = 1
"""Id of the only category in COCO's own files of keypoints."""
Annotation = Mapping[str, Any]


def to_coco_results(
    poses: Poses,
    sigmas: Sequence[float],
    config: PoseConfig,
    suppresses: bool = True,
    category_id: int = PERSON,
) -> list[dict[str, Any]]:
    """Poses in the benchmark's form, rescored, less those that say the same.

    Args:
      poses: of a set.
      sigmas: deviation of each joint in the similarity.
      config: how poses are scored and which are the same.
      suppresses: False keeps all of them, in the order of the set.
      category_id: of the persons, as the dataset's file numbers it.

    Returns:
      A list of image_id, category_id, keypoints (x, y, score for each joint) and score.
    """
    scores = rescore(poses.joints[..., 2], poses.box_scores, config.visibility_threshold)
    kept: Iterable[int] = range(len(scores))
    if suppresses and config.nms != "none":
        kept = []
        soft = config.nms == "soft"
        for image in dict.fromkeys(poses.image_ids.tolist()):
            ours = np.flatnonzero(poses.image_ids == image)
            of_image = (poses.joints[ours], scores[ours], poses.areas[ours])
            kept += ours[suppress(*of_image, sigmas, config.oks_threshold, soft=soft)].tolist()
    return [
        {
            "image_id": int(poses.image_ids[n]),
            "category_id": category_id,
            "keypoints": poses.joints[n].ravel().round(4).tolist(),
            "score": float(scores[n]),
        }
        for n in kept
    ]


def evaluate_coco(
    found: Sequence[Mapping[str, Any]],
    annotations: Sequence[Annotation],
    image_ids: Iterable[int],
    sigmas: Sequence[float],
    category_id: int = PERSON,
) -> dict[str, float]:
    """Scores poses by pycocotools, the benchmark's own evaluation.

    Args:
      found: of `results`.
      annotations: of the set, as published; those of other categories do not count. A joint is
        labeled where its flag is above 0, whatever `num_keypoints` says.
      image_ids: of all its images, those without a person too.
      sigmas: see `results`.
      category_id: of the persons.

    Returns:
      `COCO_METRICS` by name, in 0..1; NaN where no person of that area is labeled.

    Raises:
      UserError: a pose has another number of joints than the annotations, or is of another image.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    of_category = [x for x in annotations if x.get("category_id", category_id) == category_id]
    people = [_complete(person, n, category_id) for n, person in enumerate(of_category, 1)]
    check_joints((*people, *found), len(sigmas))
    images = sorted(set(image_ids))
    if not images:
        return dict.fromkeys(COCO_METRICS, float("nan"))
    if unlisted := {pose["image_id"] for pose in found}.difference(images):
        raise UserError(
            f"{len(unlisted)} images of poses are not among image_ids, such as {min(unlisted)}:"
            " give the ids of all images that are evaluated, and poses of no other"
        )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": int(image)} for image in images],
        "annotations": people,
        "categories": [{"id": category_id, "name": "person"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        # It takes no empty list; a pose without score changes nothing.
        nothing = {"image_id": truth.dataset["images"][0]["id"], "category_id": category_id}
        nothing |= {"keypoints": [0.0] * 3 * len(sigmas), "score": 0.0}
        ours = truth.loadRes([dict(pose) for pose in found] or [nothing])
        judge = COCOeval(truth, ours, "keypoints")
        judge.params.kpt_oks_sigmas = np.asarray(sigmas, float)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    values = np.where(np.asarray(judge.stats) < 0, np.nan, judge.stats)
    return dict(zip(COCO_METRICS, map(float, values), strict=True))


def check_joints(persons: Iterable[Annotation], count: int) -> None:
    """Raises UserError where a person has another number of joints."""
    found = {len(person["keypoints"]) // 3 for person in persons}
    if not found <= {count}:
        raise UserError(
            f"persons have {', '.join(map(str, sorted(found)))} joints, and config.data.keypoints "
            f"describes {count}: its names and sigmas are one for each joint"
        )


def _complete(person: Annotation, number: int, category_id: int) -> dict[str, Any]:
    """Returns an annotation with what the evaluation reads and some files lack."""
    labeled = sum(v > 0 for v in person["keypoints"][2::3])
    fixed = {"id": number, "category_id": category_id, "num_keypoints": labeled}
    return {"iscrowd": 0, **person, **fixed}


def write_coco_results(path: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Writes the benchmark's JSON; a path that ends in .zip becomes its archive, for the server."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = to_json(found)
    with atomic_write(path) as part:
        if path.suffix == ".zip":
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{path.stem}.json", text)
        else:
            part.write_text(text)
