"""The evaluation loop is pipelined, and compiled programs are cached."""

from dataclasses import replace
from functools import cached_property

import jax
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.evaluation.loop import CompiledPrograms, run_pipelined
from tests.gsto_jax.small_task import make_task


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches_are_pipelined(count):
    calls = []

    def start(batch):
        calls.append(("start", batch))
        return 10 * batch

    def finish(batch, outputs):
        assert outputs == 10 * batch
        calls.append(("finish", batch))

    assert run_pipelined(range(count), start, finish)
    expected = [[], [("start", 0)], [("start", 0), ("start", 1), ("finish", 0)]][min(count, 2)]
    assert calls[: len(expected)] == expected
    for name in ("start", "finish"):
        assert [batch for call, batch in calls if call == name] == list(range(count))


def test_stop_early():
    finished = []
    stops = iter([False, True])
    result = run_pipelined(
        range(5), lambda batch: None, lambda batch, _: finished.append(batch), lambda: next(stops)
    )
    assert (result, finished) == (False, [0])


class Sums(CompiledPrograms):
    @cached_property
    def total(self):
        return self.compile(lambda x: x.sum(), out_shardings=self.replicated)


def test_equal_tasks_share_programs():
    mesh = make_mesh(jax.devices()[:2])
    programs = Sums.for_task(make_task(1), mesh)
    assert Sums.for_task(make_task(1), mesh) is programs
    assert Sums.for_task(replace(make_task(1), steps=2), mesh) is not programs
    assert type(CompiledPrograms.for_task(make_task(1), mesh)) is CompiledPrograms
    assert int(programs.total(jax.numpy.arange(4))) == 6
