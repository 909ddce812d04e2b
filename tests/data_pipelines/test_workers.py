"""The number of worker processes, from the CPUs that a process may use."""

import os

import numpy as np
import pytest

from data_pipelines import DataError, EvalBatches, auto_workers, usable_cpus
from data_pipelines import workers as module


@pytest.fixture
def on_cpus(monkeypatch):
    """Returns a function that gives this process so many CPUs, and endless shared memory."""
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module, "fitting_workers", lambda batch_bytes: 10**6)

    def set_count(count):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)), raising=False)

    return set_count


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "?"}, 16),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "800000 100000",
                "sys/fs/cgroup/a/cpu.max": "400000 100000",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "3:memory:/m\n2:cpu,cpuacct:/pod\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu,cpuacct:/pod\n",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
    ],
)
def test_usable_cpus_are_those_of_affinity_and_quota(tmp_path, on_cpus, files, cpus):
    on_cpus(16)
    write(tmp_path, files)
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    ("cpus", "sharing", "workers"),
    [
        (1, 1, 0),
        (2, 1, 1),
        (4, 1, 3),
        (16, 1, 14),
        (16, 4, 3),
        (16, 8, 1),
        (4, 8, 0),
        (96, 2, 42),
        (224, 1, module.MAX_AUTO_WORKERS),
    ],
)
def test_auto_leaves_the_main_process_its_share(
    make_folder_config, tmp_path, on_cpus, cpus, sharing, workers
):
    config = make_folder_config(tmp_path)
    assert config.workers == "auto"
    assert auto_workers(config, 1, cpus=cpus, sharing=sharing) == workers
    on_cpus(cpus)
    assert auto_workers(config, 1, sharing=sharing) == workers


def test_auto_starts_none_for_scenes_or_elsewhere_than_linux(
    make_scenes_config, make_folder_config, tmp_path, on_cpus, monkeypatch
):
    assert auto_workers(make_scenes_config(), 1, cpus=16) == 0
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert auto_workers(make_folder_config(tmp_path), 1, cpus=16) == 0


@pytest.mark.parametrize(("free", "workers"), [(64, 3), (32, 2), (20, 1), (16, 0), (0, 0)])
def test_auto_fills_at_most_half_of_the_shared_memory(
    make_folder_config, tmp_path, monkeypatch, free, workers
):
    """A batch is 2 MiB; three a worker and two more are in flight."""
    usage = type("Usage", (), {"free": free * 2**20})
    monkeypatch.setattr("data_pipelines.shared_memory.FOLDER", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr(module.sys, "platform", "linux")
    config = make_folder_config(tmp_path)
    assert auto_workers(config, 2 * 2**20, cpus=4) == workers


@pytest.mark.parametrize("value", ["many", "2", 1.5, -1, True, None])
def test_wrong_numbers_are_refused(make_folder_config, tmp_path, value):
    with pytest.raises(DataError, match=r"config\.data\.workers must be 'auto' or "):
        make_folder_config(tmp_path, workers=value)


@pytest.mark.parametrize(
    ("images", "shards", "workers", "expected"),
    [
        (127, 1, 8, 0),
        (128, 1, 8, 2),
        (512, 1, 8, 8),
        (512, 1, 3, 3),
        (512, 4, 8, 2),
        (512, 1, 1, 0),
        (512, 1, 0, 0),
        (512, 1, "auto", 0),
    ],
)
def test_evaluation_starts_workers_for_many_images(
    make_scenes_config, tiny_source, images, shards, workers, expected
):
    batches = EvalBatches(
        make_scenes_config(workers=workers), tiny_source(images), 1, shard_count=shards
    )
    assert batches.workers == expected


@pytest.mark.slow  # two processes import everything: 20 s of CPU
def test_evaluation_does_not_depend_on_workers(make_scenes_config, tiny_source):
    source = tiny_source(130, ((6, 8), (8, 6), (5, 7)))
    options = {"batch_size": 8, "max_padded_shapes": 2}
    batches = EvalBatches(make_scenes_config(workers=2), source, **options)
    threads = [*EvalBatches(make_scenes_config(workers=0), source, **options)]
    assert batches.workers == 2
    iterator = iter(batches)
    for expected, actual in zip(threads, iterator, strict=True):
        assert expected.keys() == actual.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(actual[key], values)
