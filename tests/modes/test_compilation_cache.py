"""Compiled programs are shared by the processes of a run and by its starts."""

import re
from pathlib import Path

import pytest

from gsto_jax.devices.compilation_cache import cache_folder
from gsto_jax.storage import to_path
from tests import program

COUNTING = """
import atexit, runpy, sys
from collections import Counter
import jax
from benchmarks.faults import small_network
from gsto_jax.training import task

task.build_network = small_network()
events = Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
atexit.register(lambda: print(
    "compiled", events["/jax/compilation_cache/compile_requests_use_cache"]
    - events["/jax/compilation_cache/cache_hits"],
    "of", events["/jax/compilation_cache/compile_requests_use_cache"], flush=True))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Trains three layers, and prints how many programs were compiled, of all that were needed."""

SETTINGS = (
    "--config=configs/quickstart.py:runlocal",
    "--config.data.image_size=(32,64)",
    "--config.data.crop=(32,32)",
    "--config.optim.learning_rate=0.01",
    "--config.eval.sample_images=0",
    "--config.eval.feature_images=0",
    "--config.train.batch_size=4",
    "--config.eval.batch_size=4",
    "--config.run.trackers=()",
)


def start_two(folder, *more):
    """Returns, for each of two processes of a run, how many programs it compiled and needed."""
    coordinator = f"--coordinator=localhost:{program.free_port()}"
    started = []
    for k in range(2):
        environment = program.environment() | {"HOME": str(folder / f"home{k}")}
        environment = {x: y for x, y in environment.items() if x not in program.KEPT}
        flags = [*SETTINGS, f"--workdir={folder / 'run'}", *more]
        flags += [coordinator, "--processes=2", f"--process={k}"]
        command = ["-c", COUNTING, program.ROOT / "main.py", *flags]
        started.append(program.start_python(command, environment=environment))
    ends = program.finish(started)
    assert [status for status, *_ in ends] == [0, 0], ends
    counts = [re.search(r"^compiled (\d+) of (\d+)$", out, re.MULTILINE) for _, out, _ in ends]
    return [tuple(map(int, count.groups())) for count in counts]


@pytest.mark.slow
def test_second_start_compiles_nothing_on_any_host(tmp_path):
    """The hosts have homes of their own, as those of a slice."""
    first = start_two(tmp_path)
    assert all(compiled > 0 for compiled, _ in first)
    (tmp_path / "run").rename(tmp_path / "first")
    second = start_two(tmp_path)
    assert [compiled for compiled, _ in second] == [0, 0], second
    assert [needed for _, needed in second] == [needed for _, needed in first]
    assert not (tmp_path / "home0" / ".cache").exists()


@pytest.mark.parametrize(
    ("folder", "shared", "expected"),
    [
        ("auto", True, "gs://bucket/runs/xla_cache"),
        ("auto", False, str(Path.home() / ".cache/gsto_jax/xla")),
        ("gs://other/cache", True, "gs://other/cache"),
        ("/mnt/cache", False, "/mnt/cache"),
    ],
)
def test_folder(folder, shared, expected):
    workdir = to_path("gs://bucket/runs/a", "--workdir")
    assert str(cache_folder(folder, workdir, shared=shared)) == expected


def test_folder_of_a_run_that_is_a_bucket():
    bucket = to_path("gs://bucket", "--workdir")
    assert str(cache_folder("auto", bucket, shared=True)) == "gs://bucket/xla_cache"
