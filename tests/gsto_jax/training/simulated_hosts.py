"""Hosts, a device that all of them feed, and a clock, simulated for the training loop.

All hosts do the same in the same order, so one loop stands for them all: each has a clock of its
own, and the loop reads that of the first.
"""

from types import SimpleNamespace

import numpy as np

from gsto_jax.training import loop
from gsto_jax.training.loop import Hooks, fit
from tests.gsto_jax.small_task import make_task


class Scalar:
    """A scalar that the device computes: reading it waits for the step."""

    def __init__(self, hosts, ready, value):
        self._hosts, self._ready, self._value = hosts, ready, value

    def is_ready(self):
        return bool((self._hosts.times >= self._ready).all())

    def copy_to_host_async(self):
        pass

    def _read(self):
        self._hosts.times = np.maximum(self._hosts.times, self._ready)
        return self._value

    def __bool__(self):
        return bool(self._read())

    def __float__(self):
        return float(self._read())


class Hosts:
    """Hosts and their device; also the clock of the first host.

    Args:
      device_seconds: time of a step on the device, which starts when all hosts have dispatched it.
      input_seconds: time until a host has a batch, of each step and host or for all.
      dispatch_seconds: time that the dispatch of a step takes.
      count: number of hosts.
      bad_step: step from which on the loss is not finite; 0 for none.
    """

    def __init__(
        self, device_seconds, input_seconds=0.0, dispatch_seconds=0.0, count=1, bad_step=0
    ):
        self.device_seconds, self.dispatch_seconds = device_seconds, dispatch_seconds
        self.input_seconds, self.bad_step = input_seconds, bad_step
        self.times, self.device_time = np.zeros(count), 0.0
        self.num_batches = self.max_ahead = 0
        self.ready = []

    def __call__(self):
        return float(self.times[0])

    def passes(self, seconds, result=None):
        self.times = self.times + seconds
        return result

    def batches(self):
        while True:
            seconds = np.asarray(self.input_seconds)
            self.passes(seconds[self.num_batches] if seconds.ndim else seconds)
            self.num_batches += 1
            yield dict.fromkeys(("image", "label", "size"))

    def train_step(self, state, inputs):
        self.passes(self.dispatch_seconds)
        self.device_time = max(self.device_time, self.times.max()) + self.device_seconds
        self.ready.append(self.device_time)
        ahead = sum(ready > self.times.max() for ready in self.ready[-40:])
        self.max_ahead = max(self.max_ahead, ahead)
        step = state.step + 1
        good = not self.bad_step or step < self.bad_step
        loss = 1 / step if good else float("nan")
        names = {"loss": loss, "loss/stage4": loss, "gradient_norm": loss, "finite": good}
        metrics = {name: Scalar(self, self.device_time, value) for name, value in names.items()}
        return SimpleNamespace(step=step), metrics

    def fit(self, monkeypatch, steps, hooks=None, **run):
        """Runs the training loop."""
        monkeypatch.setattr(loop, "CompiledTrainStep", lambda task, mesh: self.train_step)
        monkeypatch.setattr(loop, "put_batch", lambda batch, mesh: batch)
        task = make_task(steps, {"run": {"checkpoint_every": 10**6, "log_every": 20} | run})
        return fit(task, SimpleNamespace(step=0), self.batches(), None, hooks or Hooks(), self)
