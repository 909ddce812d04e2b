"""`--mode=bench_input`, in this process."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from configs import quickstart
from data_pipelines import Throughput
from gsto_jax.errors import UserError
from modes import bench_input

SPEEDS = {
    workers: Throughput(images_per_second=rate, busy_cores=cores)
    for workers, rate, cores in ((0, 20.0, 1.5), (1, 16.0, 1.25), (2, 30.0, 2.25), (4, 28.0, 4.0))
}


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurements; returns the measured calls."""
    calls = []

    def train_throughput(data, source, batch_size, *, workers, seconds):
        calls.append((len(source), batch_size, workers, seconds))
        return SPEEDS[workers]

    def evaluation_throughput(batches, seconds):
        calls.append((len(batches), batches.workers))
        return 5.0

    monkeypatch.setattr(bench_input, "train_throughput", train_throughput)
    monkeypatch.setattr(bench_input, "evaluation_throughput", evaluation_throughput)
    monkeypatch.setattr(bench_input, "usable_cpus", lambda: 4)
    monkeypatch.setattr(bench_input, "fitting_workers", lambda batch_bytes: 10**6)
    monkeypatch.setattr(bench_input, "_STAGE_SECONDS", 0.0)
    return calls


def arguments(worker_counts=None, output=None, **data):
    config = quickstart.get_config()
    for name, value in data.items():
        config.data[name] = value
    return SimpleNamespace(config=config, worker_counts=worker_counts, seconds=7, output=output)


def test_all_numbers_of_workers_are_measured_and_the_best_is_written(measured, tmp_path, capsys):
    output = tmp_path / "folder/input.json"
    bench_input.run(arguments(output=str(output)))
    assert measured == [(400, 4, workers, 7) for workers in (0, 1, 2, 4)] + [(25, 0)]
    assert json.loads(output.read_text()) == {
        "images_per_second": 30.0,
        "cores": 4,
        "workers": 2,
        "images_per_second_per_core": 15.0,
        "by_workers": {str(workers): asdict(speed) for workers, speed in SPEEDS.items()},
        "config": "quickstart",
        "crop": [96, 128],
        "stored_bytes_per_image": 0.0,
    }
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["2", "30.0", "15.0", "1.88", "2.2", "0.0"] in rows
    assert ["4", "28.0", "7.0", "1.75", "4.0", "0.0"] in rows


@pytest.mark.parametrize(
    ("flag", "workers", "measured_counts"),
    [(None, 2, [2]), (["4", " 1", "4"], 2, [1, 4]), (None, 0, [0])],
)
def test_chosen_numbers_of_workers(measured, flag, workers, measured_counts):
    bench_input.run(arguments(worker_counts=flag, workers=workers))
    assert [call[2] for call in measured[:-1]] == measured_counts


@pytest.mark.parametrize(
    ("cpus", "fitting", "expected"),
    [(1, 9, [0, 1]), (4, 3, [0, 1, 2, 3]), (4, 0, [0]), (5, 9, [0, 1, 2, 4, 5])],
)
def test_no_more_workers_than_cpus_and_shared_memory_serve(
    measured, monkeypatch, cpus, fitting, expected
):
    sizes, speed = [], SPEEDS[2]
    monkeypatch.setattr(bench_input, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(bench_input, "fitting_workers", lambda size: sizes.append(size) or fitting)
    monkeypatch.setattr(
        bench_input, "train_throughput", lambda *_, workers, **__: measured.append(workers) or speed
    )
    bench_input.run(arguments())
    assert measured[:-1] == expected  # the last is the evaluation
    assert sizes == [4 * 4 * 96 * 128]  # images of three channels, and labels


def test_threads_count_as_cores():
    speed = Throughput(images_per_second=12.0, busy_cores=1.0)
    for workers, cores, per_core in ((0, 8, 6.0), (0, 1, 12.0), (3, 2, 6.0)):
        record = bench_input.input_record({workers: speed}, cores)
        assert record["images_per_second_per_core"] == per_core


@pytest.mark.parametrize("flag", [["two"], ["-1"], ["1.5"], [""]])
def test_wrong_numbers(measured, flag):
    with pytest.raises(UserError, match="--worker_counts must be numbers"):
        bench_input.run(arguments(worker_counts=flag))
    assert not measured


def test_unwritable_output(measured, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output=.*file/x\.json cannot be written"):
        bench_input.run(arguments(worker_counts=["1"], output=str(tmp_path / "file/x.json")))
