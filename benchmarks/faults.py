"""Kills training at random moments, many times, and looks whether anything was lost.

    python benchmarks/faults.py --kills=1000 [--seed=0] [--csv=FILE] [--folder=DIR]

A run of a few steps is started, killed (SIGKILL), started again by the same command, and so on
until it ends; then comes the next run, until there were so many kills. The moments are drawn: half
of them over the whole life of a process (set-up, restoring, steps, saving, evaluating), the others
shortly after a step that is drawn too. What must hold of each run that ended: no step is missing,
none was taken from a state of another step, every loss of every step is the undisturbed run's, the
data stands where it should, and so do, bit for bit, the arrays of the last checkpoint.

Each start is the program of `main.py`, in a process of its own, forked from one that has imported
everything and has started no device: that saves seconds a start, and nothing else is shared. The
network is one of three layers, since tracing another takes longer than all the rest; with --network
it is the configuration's own. Writes one line of CSV a kill, and ends with status 1 if anything did
not hold.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

STEPS = 12
FIELDS = ("kill", "run", "moment_s", "aim", "found", "steps_before", "steps_after", "checkpoint")
SETTINGS = (
    "--config=configs/quickstart.py:runlocal",
    f"--config.train.steps={STEPS}",
    "--config.optim.learning_rate=0.01",
    "--config.data.image_size=(32, 64)",
    "--config.data.crop=(32, 32)",
    "--config.eval.sample_images=0",
    "--config.eval.feature_images=0",
    "--config.run.checkpoint_every=2",
    "--config.run.eval_every=6",
    "--config.optim.ema_decay=0.5",
)


def prepare_imports(cache: Path) -> None:
    """Imports what a training run imports, and starts no device."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    import orbax.checkpoint  # noqa: F401

    import main  # noqa: F401
    import modes.train  # noqa: F401


def small_network() -> Callable[..., Any]:
    """Builds networks of three layers, whatever the settings; replaces `task.network`."""
    import flax.linen as nn
    import jax

    from gsto_jax.layers.conv import Conv
    from gsto_jax.layers.norm import BatchNorm
    from gsto_jax.models.base import Outputs

    class Small(nn.Module):
        classes: int
        bn_momentum: float | jax.Array = 0.99

        @nn.compact
        def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
            maps = nn.relu(BatchNorm(self.bn_momentum)(Conv(8, 3, 4)(images), train))
            return Outputs(Conv(self.classes, 1)(maps), {}, {"stage4": [maps]}, {})

    return lambda config, classes, platform="": Small(classes)


def start(workdir: Path, output: Path, more: Sequence[str] = ()) -> int:
    """Starts the program in a process of its own; returns its id. Its output goes to a file."""
    if process := os.fork():
        return process
    status = 70
    try:
        for number in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.argv = ["main.py", *SETTINGS, f"--workdir={workdir}", *more]
        status = _program()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)  # what the parent would do at its end is not the child's to do


def _program() -> int:
    from absl import app

    import main
    from modes import command_line

    try:
        app.run(main.main, flags_parser=command_line.parse)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def wait(process: int, output: Path, seconds: float = math.inf, step: float = math.inf) -> bool:
    """Waits until a process ends (True), or a time is over, or its output reports a step.

    Raises:
      RuntimeError: it ended with a failure.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done and status:
            told = output.read_text()[-3000:] if output.exists() else ""
            raise RuntimeError(f"a start ended with {os.waitstatus_to_exitcode(status)}: {told}")
        if done:
            return True
        if step <= _last_step(output):
            return False
        time.sleep(0.002)
    return False


def _last_step(output: Path) -> int:
    try:
        return max(map(int, re.findall(r"^step +(\d+)/", output.read_text(), re.M)), default=0)
    except FileNotFoundError:
        return 0


def kill(process: int) -> None:
    """Kills a process that is still there, and waits until it is gone."""
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def digest(workdir: Path) -> str:
    """Names, dtypes and bytes of the arrays in the last checkpoint, by another process."""
    read, write = os.pipe()
    if not (process := os.fork()):
        try:
            os.write(write, _digest(workdir / "checkpoints" / str(STEPS)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = answer.read()
    os.waitpid(process, 0)
    if not found:
        raise RuntimeError(f"the last checkpoint of {workdir} cannot be read")
    return found


def _digest(folder: Path) -> str:
    import jax
    import orbax.checkpoint as ocp

    warnings.simplefilter("ignore")  # orbax would rather be told where to put the arrays
    from gsto_jax.runs.checkpoint import read_record

    if read_record(folder)["data"] != {"batches": STEPS}:
        return "the data stands elsewhere"
    with ocp.PyTreeCheckpointer() as reader:
        state = reader.restore(folder / "state")
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state)):
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(leaf.tobytes())
    return found.hexdigest()


def lines(workdir: Path, name: str) -> list[dict]:
    """The records in a file of lines, but for lines that were cut off."""
    found = []
    path = workdir / name
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def losses(workdir: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and losses of each line of progress, in the order in which they were written."""
    return [
        (line["step"], {k: v for k, v in line.items() if k.startswith(("loss", "gradient"))})
        for line in lines(workdir, "training.jsonl")
    ]


def faults_of(workdir: Path, expected: dict[int, dict[str, float]], arrays: str) -> list[str]:
    """What does not hold of a run that ended."""
    found = []
    told = losses(workdir)
    if missing := sorted({*range(1, STEPS + 1)} - {step for step, _ in told}):
        found.append(f"steps {missing} are missing")
    starts = {line["step"] + 1 for line in lines(workdir, "starts.jsonl")}
    for (before, _), (after, _) in zip([(0, {}), *told], told, strict=False):
        if after != before + 1 and not (after <= before and after in starts):
            found.append(f"step {after} came after {before}")
    found += [f"step {step} has other losses" for step, loss in told if loss != expected[step]]
    if digest(workdir) != arrays:
        found.append("the last checkpoint holds other arrays")
    scores = {line["step"]: line["mean_iou"] for line in lines(workdir, "evaluations.jsonl")}
    if sorted(scores) != [STEPS // 2, STEPS]:
        found.append(f"evaluations of steps {sorted(scores)}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, kills, compares. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments")
    parser.add_argument("--csv", type=Path, help="where to write one line a kill")
    parser.add_argument("--network", action="store_true", help="trains the configuration's own")
    parser.add_argument("--folder", type=Path, help="for the runs; by default a temporary one")
    parser.add_argument("--cache", type=Path, default=ROOT / "tests" / ".jax_cache")
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    prepare_imports(args.cache)
    if not args.network:
        from gsto_jax.training import task

        task.network = small_network()
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=args.folder))
    try:
        return _kill_many(args.kills, args.seed, args.csv, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kill_many(kills: int, seed: int, table: Path | None, folder: Path) -> int:
    from gsto_jax.runs.checkpoint import steps

    whole = folder / "undisturbed"
    for _ in range(2):  # the first one compiles
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()
        output = folder / "undisturbed.txt"
        wait(start(whole, output), output)
        life = time.monotonic() - began
    expected, arrays = dict(losses(whole)), digest(whole)
    print(f"seed {seed}; a whole run takes {life:.1f} s; last checkpoint {arrays[:16]}", flush=True)
    rng, rows, wrong, run, done, began = random.Random(seed), [], [], 0, 0, time.monotonic()
    while done < kills:
        run += 1
        workdir, output, ended = folder / f"run{run}", folder / f"run{run}.txt", False
        while not ended:
            before, aim = _last_step(output), ""
            output.unlink(missing_ok=True)
            born, began_at = time.monotonic(), time.time()
            process = start(workdir, output)
            if done == kills:
                ended = wait(process, output)
                continue
            if rng.random() < 0.5:
                aim = "life"
                ended = wait(process, output, rng.uniform(0, life))
            else:
                step = rng.randint(before + 1, STEPS) if before < STEPS else STEPS
                aim = f"step {step}"
                ended = wait(process, output, step=step)
                ended = ended or wait(process, output, 0.4 * rng.random() ** 2)
            if ended:
                continue
            kill(process)
            done += 1
            saved = steps(workdir / "checkpoints")
            # Those of earlier kills may still lie there.
            partial = (workdir / "checkpoints").glob("*tmp*")
            saving = any(path.stat().st_mtime >= began_at for path in partial)
            row = {
                "kill": done,
                "run": run,
                "moment_s": round(time.monotonic() - born, 3),
                "aim": aim,
                "found": "saving" if saving else "",
                "steps_before": before,
                "steps_after": _last_step(output),
                "checkpoint": saved[-1] if saved else 0,
            }
            rows.append(row)
            if table:
                _write(table, rows)
        if problems := faults_of(workdir, expected, arrays):
            kept = ROOT / f"fault-seed{seed}-run{run}"
            shutil.copytree(workdir, kept)
            wrong.append(run)
            print(f"run {run}: {'; '.join(problems)}; kept as {kept}", flush=True)
        shutil.rmtree(workdir)
        if run % 10 == 0:
            print(f"{done} kills, {run} runs, {time.monotonic() - began:.0f} s", flush=True)
    during = sum(row["found"] == "saving" for row in rows)
    print(
        f"{done} kills in {run} runs, {time.monotonic() - began:.0f} s; {during} while a checkpoint"
        f" was being written; runs that differ: {wrong or 'none'}"
    )
    return 1 if wrong else 0


def _write(table: Path, rows: Sequence[dict]) -> None:
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
