"""COCO keypoint results and metrics (needs pycocotools, from the `train` extra)."""

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
from gsto_jax.pose.oks import oks_nms, rescore
from gsto_jax.pose.poses import Poses

COCO_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")
"""Average precision and recall over OKS 0.5 to 0.95, at 0.5 and 0.75, and for persons of medium and
large area."""
PERSON_CATEGORY = 1
"""Id of the person category in COCO's keypoint annotations."""
Annotation = Mapping[str, Any]


def to_coco_results(
    poses: Poses,
    sigmas: Sequence[float],
    config: PoseConfig,
    category_id: int = PERSON_CATEGORY,
) -> list[dict[str, Any]]:
    """Converts poses to COCO results, after rescoring and OKS-NMS.

    Args:
      poses: poses of a dataset.
      sigmas: standard deviation of each joint in OKS.
      config: options of rescoring and NMS.
      category_id: category of persons in the annotations.

    Returns:
      A dict per pose with image_id, category_id, keypoints (x, y, score per joint) and score.
    """
    scores = rescore(poses.joints[..., 2], poses.box_scores, config.visibility_threshold)
    kept: Iterable[int] = range(len(scores))
    if config.nms != "none":
        kept = []
        for image_id in dict.fromkeys(poses.image_ids.tolist()):
            persons = np.flatnonzero(poses.image_ids == image_id)
            best = oks_nms(
                poses.joints[persons],
                scores[persons],
                poses.areas[persons],
                sigmas,
                threshold=config.oks_threshold,
                soft=config.nms == "soft",
            )
            kept += persons[best].tolist()
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
    results: Sequence[Mapping[str, Any]],
    annotations: Sequence[Annotation],
    image_ids: Iterable[int],
    sigmas: Sequence[float],
    category_id: int = PERSON_CATEGORY,
) -> dict[str, float]:
    """Computes COCO keypoint metrics with pycocotools.

    Args:
      results: results from `to_coco_results`.
      annotations: of the dataset; other categories are ignored. A joint is labeled if its flag is
        above 0, regardless of `num_keypoints`.
      image_ids: ids of all images, including images without persons.
      sigmas: see `to_coco_results`.
      category_id: category of persons.

    Returns:
      `COCO_METRICS` by name, in 0..1; NaN where no person of that area is labeled.

    Raises:
      UserError: the number of joints differs between results, annotations and sigmas, or a result's
        image is not in `image_ids`.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    persons = [x for x in annotations if x.get("category_id", category_id) == category_id]
    persons = [_complete(person, n, category_id) for n, person in enumerate(persons, 1)]
    check_joints((*persons, *results), len(sigmas))
    images = sorted(set(image_ids))
    if not images:
        return dict.fromkeys(COCO_METRICS, float("nan"))
    if unlisted := {pose["image_id"] for pose in results}.difference(images):
        raise UserError(
            f"image_ids must have the images of all results; it lacks {len(unlisted)} images, such"
            f" as {min(unlisted)}"
        )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": int(image)} for image in images],
        "annotations": persons,
        "categories": [{"id": category_id, "name": "person"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        # loadRes rejects an empty list; a pose far outside matches no person.
        dummy = {"image_id": int(images[0]), "category_id": category_id, "score": 0.0}
        empty = [dummy | {"keypoints": [-1e6, -1e6, 0.0] * len(sigmas)}]
        predictions = truth.loadRes([dict(pose) for pose in results] or empty)
        evaluation = COCOeval(truth, predictions, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, float)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = np.where(np.asarray(evaluation.stats) < 0, np.nan, evaluation.stats)
    return dict(zip(COCO_METRICS, map(float, values), strict=True))


def check_joints(persons: Iterable[Annotation], count: int) -> None:
    """Raises UserError if a person has a different number of joints."""
    counts = {len(person["keypoints"]) // 3 for person in persons}
    if not counts <= {count}:
        raise UserError(
            "config.data.keypoints must have a name and a sigma per joint; got "
            f"{count}, and persons of {', '.join(map(str, sorted(counts)))} joints"
        )


def _complete(person: Annotation, annotation_id: int, category_id: int) -> dict[str, Any]:
    """Returns an annotation with the fields that pycocotools requires."""
    labeled = sum(v > 0 for v in person["keypoints"][2::3])
    required = {"id": annotation_id, "category_id": category_id, "num_keypoints": labeled}
    return {"iscrowd": 0, **person, **required}


def write_coco_results(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes COCO results as JSON or, for a path that ends in .zip, as a submission archive."""
    text = to_json(results)
    with atomic_write(path) as temporary_path:
        if path.suffix == ".zip":
            with zipfile.ZipFile(temporary_path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{path.stem}.json", text)
        else:
            temporary_path.write_text(text)
