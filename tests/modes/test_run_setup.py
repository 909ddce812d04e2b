"""Worker processes of a run."""

from dataclasses import replace

import jax
import pytest

from configs import camvid_w18s, coco_pose_w32, mpii_pose_w32
from configs.loading import plain_values
from data_pipelines import DataConfig, DataError
from data_pipelines.builders import make_builder, prepare
from gsto_jax import UserError
from gsto_jax.devices import processes
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs.tasks import task_from_config
from modes import run_setup
from tests.data_pipelines.downloads_trees import write_tree
from tests.data_pipelines.mpii_trees import mpii_files


@pytest.fixture
def data():
    values = plain_values(camvid_w18s.get_config())["data"]
    return DataConfig(**values | {"root": "x", "crop": (10, 20)})


@pytest.mark.parametrize(
    ("platform", "value", "hosts", "workers", "batch_size"),
    [
        ("tpu", "auto", 1, 5, 13),
        ("gpu", "auto", 4, 5, 4),
        ("cpu", "auto", 1, 0, 0),
        ("tpu", 3, 1, 3, 0),
        ("tpu", 0, 1, 0, 0),
        ("cpu", 3, 1, 3, 0),
    ],
)
def test_workers_are_chosen_for_accelerators(
    data, monkeypatch, platform, value, hosts, workers, batch_size
):
    calls = []

    def auto_workers(config, batch_bytes, sharing):
        calls.append((batch_bytes, sharing))
        return 5

    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    monkeypatch.setattr(processes, "count_equal", lambda text: 2)
    monkeypatch.setattr(run_setup, "auto_workers", auto_workers)
    assert run_setup.choose_workers(replace(data, workers=value), 13).workers == workers
    assert calls == ([(4 * 10 * 20 * batch_size, 2)] if batch_size else [])


def test_data_options_are_validated_first():
    config = coco_pose_w32.get_config()
    config.data.keypoints.skeleton = (1, 2)  # of which the task makes pairs
    with pytest.raises(DataError, match=r"config\.data\.keypoints\.skeleton must be"):
        run_setup.parse_config(config)


def test_missing_head_boxes(tmp_path):
    """The evaluation set is refused when it is built, before training."""
    values = plain_values(mpii_pose_w32.get_config())
    values["model"]["variant"] = "mini"
    data = DataConfig(**values["data"] | {"root": str(tmp_path / "sets"), "eval_split": "train"})
    source = write_tree(tmp_path / "downloads", mpii_files())
    prepare(make_builder(data), source, tmp_path / "sets", partial=True)
    task, mesh = task_from_config(values), make_mesh(jax.devices()[:1])
    with pytest.raises(UserError, match=r"config\.pose\.metric .*head boxes"):
        run_setup.make_pose_eval_set(task, data, mesh)
    run_setup.make_pose_eval_set(task, replace(data, eval_split="val"), mesh)
