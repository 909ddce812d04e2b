"""Writes predictions for the test split as a zip for the benchmark's server."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines import DataConfig, PersonSource
from gsto_jax import progress
from gsto_jax.devices.compilation_cache import use_compilation_cache
from gsto_jax.devices.mesh import make_mesh, replicate
from gsto_jax.errors import UserError
from gsto_jax.evaluation.loop import Batch, GetMaps
from gsto_jax.pose.eval_set import PoseEvalSet
from gsto_jax.pose.eval_set import describe_protocol as pose_protocol
from gsto_jax.pose.evaluate import estimate_poses
from gsto_jax.pose.metrics import to_coco_results, write_coco_results
from gsto_jax.pose.task import PoseTask
from gsto_jax.pose.wholebody import to_wholebody_result
from gsto_jax.runs.experiment import load_for_evaluation
from gsto_jax.segmentation import evaluate as segmentation
from gsto_jax.segmentation.eval_set import SegmentationEvalSet
from gsto_jax.segmentation.submission import SubmissionWriter, label_id_table
from gsto_jax.segmentation.task import SegmentationTask
from modes import run_setup
from modes.terminal_output import log


def run(args: Any) -> None:
    """Runs the mode."""
    task, data, values = run_setup.parse_config(args.config)
    if jax.process_count() > 1:
        raise UserError("--mode=submit runs in one process only")
    if data.source == "scenes":
        raise UserError(f"{task.config.name} uses synthetic images: no server accepts predictions")
    if data.is_classification:
        raise UserError(
            f"--mode=submit is for segmentation and poses; {task.config.name} is a classification"
        )
    workdir, checkpoints = run_setup.open_run(args)
    split = data.test_split
    data = replace(data, eval_split=split, eval_size=0, instance_sizes=(), val_fraction=0.0)
    mesh = make_mesh(spatial_shards=task.config.parallel.spatial_shards)
    data = run_setup.choose_workers(data, task.config.train.batch_size)
    with progress.track("reading the data"):
        eval_set, source = run_setup.make_eval_set(task, data, values, mesh)
    # A test split has no truth, and the warnings of persons would say so.
    warnings = source.notes if isinstance(source, PersonSource) else source.warnings
    run_setup.log_warnings(warnings, log)
    checkpoint = load_for_evaluation(workdir, task, mesh, values, log, checkpoints)
    variables = replicate(checkpoint.state.variables, mesh)
    use_compilation_cache(task.config.run.compilation_cache)
    run_setup.log_compilation(eval_set, log)
    if isinstance(task, PoseTask):
        assert isinstance(eval_set, PoseEvalSet)
        path, summary = _submit_poses(task, variables, eval_set, mesh, workdir.path)
    else:
        assert isinstance(task, SegmentationTask) and isinstance(eval_set, SegmentationEvalSet)
        path, summary = _submit_labels(task, variables, eval_set, data, mesh, workdir.path)
    log(summary)
    log(f"submission  {path}")
    log(f"checkpoint  {checkpoint.path}")


def _submit_labels(
    task: SegmentationTask,
    variables: Any,
    eval_set: SegmentationEvalSet,
    data: DataConfig,
    mesh: Mesh,
    folder: Path,
) -> tuple[Path, str]:
    """Writes label ids as PNGs; returns the zip and a summary."""
    path = folder / f"submission-{eval_set.split}.zip"
    names = list(map(eval_set.name, range(eval_set.size)))
    ids = data.id_map or [(k, k) for k in range(task.num_classes)]
    writer = SubmissionWriter(path, label_id_table(ids, task.num_classes), names)
    with writer, progress.track(f"predicting {eval_set.split}", len(names)) as advance:

        def on_batch(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
            writer.write(batch, predictions, maps)
            advance(int(batch["mask"].sum()))

        batches, protocol = eval_set.batches, eval_set.protocol
        segmentation.evaluate(task, variables, batches, mesh, protocol, on_batch=on_batch)
    return path, f"{writer.written} images of {eval_set.split}, {eval_set.protocol}"


def _submit_poses(
    task: PoseTask, variables: Any, eval_set: PoseEvalSet, mesh: Mesh, folder: Path
) -> tuple[Path, str]:
    """Writes COCO keypoint results as JSON; returns the zip and a summary."""
    with progress.track(f"predicting {eval_set.split}", eval_set.size) as advance:
        poses = estimate_poses(
            task,
            variables,
            eval_set.batches,
            eval_set.size,
            mesh,
            on_batch=lambda batch, joints, maps: advance(int(batch["mask"].sum())),
        )
    assert poses is not None, "nothing stops it"
    server_split = "test-dev2017" if eval_set.split == "test" else eval_set.split
    path = folder / f"person_keypoints_{server_split}_{task.config.name}_results.zip"
    results = to_coco_results(
        poses, task.sigmas, task.config.pose, category_id=eval_set.category_id
    )
    if task.config.pose.metric == "wholebody":
        results = list(map(to_wholebody_result, results))
    write_coco_results(path, results)
    return path, (
        f"{len(results)} poses of {eval_set.size} persons in {eval_set.split}, {eval_set.boxes}"
        f"{pose_protocol(task)}"
    )
