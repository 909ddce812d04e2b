"""One process of several: test_distributed.py starts them, and says what becomes of each.

python -m tests.gsto_jax.peer_process SCENARIO PORT COUNT INDEX

Port 0: where the others are is for the environment to say.
"""

import os
import signal
import sys
import threading
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gsto_jax.devices import process_watch, processes
from gsto_jax.devices.mesh import make_mesh, replicated_sharding
from gsto_jax.devices.process_config import ProcessConfig
from gsto_jax.errors import UserError
from modes.interrupt import Interrupt

STEPS = 400


def steps(stop=lambda: False, at=lambda step: None):
    """Steps that no process can take alone. Returns the last one."""
    mesh = make_mesh()
    actual = np.full((1, 4), jax.process_index(), np.float32)
    x = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), actual)
    add = jax.jit(lambda x: x.sum(), out_shardings=replicated_sharding(mesh))
    before = None
    for step in range(1, STEPS + 1):
        result = add(x)
        if before is not None:
            before.block_until_ready()
        before = result
        at(step)
        if stop():
            break
        time.sleep(0.02)
    print("step", step, float(result), flush=True)
    return step


def stopping(index):
    """One process gets SIGTERM: all end at one step."""

    def at(step):
        if index == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with Interrupt() as interrupt:
        stop = processes.SynchronizedStop(lambda: interrupt.received)
        steps(stop, at)
        print(stop.received, flush=True)


def ending(index):
    """One process ends all, while the others wait for nothing that could tell them."""
    if index == 1:
        processes.end("stopped by SIGTERM while compiling the train step", 42)
    threading.Event().wait()


def failing(index):
    """One process has something to say while the others are in a step."""

    def at(step):
        if index == 1 and step == 5:
            raise UserError("the file x.png is damaged: replace it")

    steps(at=at)


def failing_first(index):
    """The coordinator fails; the others wait for it."""
    if index == 0:
        raise UserError("workdir is in use")
    processes.barrier()


def dying(index):
    """One process is gone without a word."""

    def at(step):
        if index == 1 and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    steps(at=at)


def dying_idle(index):
    """The same, while the others wait for nothing that a device or a connection could tell."""
    if index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()


def dying_first(index):
    """The coordinator is gone without a word."""
    if index == 0:
        processes.broadcast("here")
        os.kill(os.getpid(), signal.SIGKILL)
    processes.broadcast("")
    threading.Event().wait()


def agreeing(index):
    """Compares settings between processes; the third process has another second setting."""
    values = {"a": 1, "b": [1, 2], "c": 3}
    processes.check_agreement(values)
    print("agreed", flush=True)
    processes.check_agreement(values | ({"b": [1, 3], "c": 4} if index == 2 else {}))
    threading.Event().wait()


def ordinary(index):
    """Exchanges messages, and ends when all processes are done."""
    assert processes.count_equal(f"host {index // 3}") == (
        min(jax.process_count(), 3) if index < 3 else 1
    )
    print(processes.broadcast(f"of {index}"), processes.all_true(True), flush=True)
    print(processes.all_true(index != 1), flush=True)
    time.sleep(index)


if __name__ == "__main__":
    scenario, port, count, index = sys.argv[1:]
    process_watch.LOST_SECONDS = 10.0
    place = None
    if int(port):
        place = ProcessConfig(f"localhost:{port}", int(count), int(index))
    processes.connect(place, 120, lost_status=43)
    try:
        globals()[scenario](int(index))
        processes.disconnect()
    except UserError as error:
        processes.fail(str(error), 2)
    except Exception as error:
        processes.await_failure_of_others()
        processes.fail(processes.connection_error(error) or repr(error), 1)
