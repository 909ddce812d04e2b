"""Writes predictions of a run for `data.test_split`: label ids, or poses."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from data_pipelines import DataConfig
from gsto_jax import progress
from gsto_jax.devices.mesh import make_mesh, replicate, use_compilation_cache
from gsto_jax.errors import UserError
from gsto_jax.evaluation.loop import Batch, GetMaps
from gsto_jax.pose.eval_set import protocol as pose_protocol
from gsto_jax.pose.evaluate import estimate_poses
from gsto_jax.pose.metrics import to_coco_results, write_coco_results
from gsto_jax.pose.task import PoseTask
from gsto_jax.runs.experiment import load_for_evaluation
from gsto_jax.segmentation import evaluate as segmentation
from gsto_jax.segmentation.submission import SubmissionWriter, label_id_table
from gsto_jax.segmentation.task import SegmentationTask
from modes.run_setup import (
    Values,
    make_pose_set,
    make_segmentation_set,
    read_settings,
    run_folder,
    show_compilation,
    show_warnings,
)
from modes.terminal_output import make_show


def run(args: Any) -> None:
    """Writes the zip. Raises UserError or DataError."""
    task, data, values = read_settings(args.config)
    settings, show = task.config, make_show()
    if jax.process_count() > 1:
        raise UserError("--mode=submit runs in one process: give it one host")
    if data.source == "scenes":
        raise UserError(f"{settings.name} draws its images: there is no server to submit them to")
    if isinstance(task, PoseTask):
        _submit_poses(args, task, data, values)
        return
    assert isinstance(task, SegmentationTask)
    workdir, chosen = run_folder(args)
    data = replace(data, eval_split=data.test_split, eval_size=0, instance_sizes=())
    mesh = make_mesh(spatial_shards=task.config.parallel.spatial_shards)
    with progress.track("reading the data"):
        eval_set, source = make_segmentation_set(task, data, values, mesh)
    show_warnings(source.warnings, show)
    path = workdir.path / f"submission-{data.test_split}.zip"
    names = list(map(source.name, range(len(source))))
    ids = data.id_map or [(k, k) for k in range(task.num_classes)]
    writer = SubmissionWriter(path, label_id_table(ids, task.num_classes), names)
    found = load_for_evaluation(workdir, task, mesh, values, show, chosen)
    variables = replicate(found.state.variables, mesh)
    use_compilation_cache(settings.run.compilation_cache)
    show_compilation(eval_set, show)
    with writer, progress.track(f"predicting {data.test_split}", len(names)) as advance:

        def on_batch(batch: Batch, predictions: np.ndarray, maps: GetMaps) -> None:
            writer.write(batch, predictions, maps)
            advance(int(batch["mask"].sum()))

        batches, protocol = eval_set.batches, eval_set.protocol
        segmentation.evaluate(task, variables, batches, mesh, protocol, on_batch=on_batch)
    show(f"{writer.written} images of {data.test_split}, {eval_set.protocol}")
    show(f"submission  {path}")
    show(f"checkpoint  {found.path}")


def _submit_poses(args: Any, task: PoseTask, data: DataConfig, values: Values) -> None:
    """Writes poses as COCO's server takes them."""
    show = make_show()
    workdir, chosen = run_folder(args)
    mesh = make_mesh(spatial_shards=task.config.parallel.spatial_shards)
    split = data.test_split
    with progress.track("reading the data"):
        persons, source = make_pose_set(task, replace(data, eval_split=split, eval_size=0), mesh)
    show_warnings(source.notes, show)
    found = load_for_evaluation(workdir, task, mesh, values, show, chosen)
    variables = replicate(found.state.variables, mesh)
    use_compilation_cache(task.config.run.compilation_cache)
    with progress.track(f"predicting {split}", persons.size) as advance:
        poses = estimate_poses(
            task,
            variables,
            persons.batches,
            persons.size,
            mesh,
            on_batch=lambda batch, joints, maps: advance(int(batch["mask"].sum())),
        )
    assert poses is not None, "nothing stops it"
    published = "test-dev2017" if split == "test" else split
    path = workdir.path / f"person_keypoints_{published}_{task.config.name}_results.zip"
    kept = to_coco_results(poses, task.sigmas, task.config.pose, category_id=persons.category_id)
    write_coco_results(path, kept)
    show(f"{len(kept)} poses of {persons.size} in {split}, {persons.boxes}{pose_protocol(task)}")
    show(f"submission  {path}")
    show(f"checkpoint  {found.path}")
