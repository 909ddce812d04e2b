"""Kills training at many random moments and checks that nothing is lost.

    python benchmarks/faults.py --kills=1000 [--seed=0] [--csv=FILE] [--folder=DIR | --bucket]

A run of a few steps is started, killed (SIGKILL) and restarted by the same command until it ends;
then the next run starts, until the number of kills is reached. Half of the moments are uniform over
the life of a process (setup, restoring, steps, saving, evaluating), the others shortly after a
random step. Each finished run must have all steps, no step from the state of another one, the
losses of an undisturbed run at each step, the right state of the data iterator, and a last
checkpoint that is equal bit for bit.

Each start runs `main.py` in a process forked from one that has imported everything and initialized
no device, which saves seconds per start. The network has three layers, since tracing a real one
takes longer than everything else; `--network` uses that of the config. With `--bucket` the runs are
in a bucket of an emulator on this machine, and the lock of a killed start is taken over after
seconds instead of a minute. On a machine that becomes busier, runs end only with a longer `--life`
than that of an undisturbed run. Writes one row of CSV per kill, and exits with status 1 if a check
failed.
"""

import argparse
import csv
import hashlib
import importlib
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.forked import in_process

ROOT = Path(__file__).parents[1]
STEPS = 12
FIELDS = ("kill", "run", "seconds", "target", "state", "steps_before", "steps_after", "checkpoint")
ARGUMENTS = (
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
    """Imports everything that training imports, without initializing a device."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    import orbax.checkpoint  # noqa: F401

    import main  # noqa: F401
    import modes.train  # noqa: F401


def small_network() -> Callable[..., Any]:
    """Returns a replacement of `task.network` that builds networks of three layers."""
    import flax.linen as nn
    import jax

    from gsto_jax.layers.conv import Conv
    from gsto_jax.layers.norm import BatchNorm
    from gsto_jax.models.base import Outputs

    class Small(nn.Module):
        classes: int
        bn_momentum: float | jax.Array = 0.99
        frozen_norms: frozenset[str] = frozenset()

        @nn.compact
        def __call__(self, images: jax.Array, train: bool = False) -> Outputs:
            maps = nn.relu(
                BatchNorm(self.bn_momentum, frozen=self.frozen_norms)(Conv(8, 3, 4)(images), train)
            )
            return Outputs(Conv(self.classes, 1)(maps), {}, {"stage4": [maps]}, {})

    return lambda config, classes, **options: Small(classes)


def start(workdir: Path, output: Path, arguments: Sequence[str] = ()) -> int:
    """Starts the program in a forked process, with its output in a file; returns its id."""
    if process := os.fork():
        return process
    status = 70
    try:
        for number in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.argv = ["main.py", *ARGUMENTS, f"--workdir={workdir}", *arguments]
        status = _program()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)  # without the exit handlers of the parent


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
    """Waits for the end of a process, for a time, or until its output reports a step.

    Returns:
      Whether the process has ended.

    Raises:
      RuntimeError: it failed.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done and status:
            tail = output.read_text()[-3000:] if output.exists() else ""
            raise RuntimeError(f"a start exited with {os.waitstatus_to_exitcode(status)}: {tail}")
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
    """Kills a running process and waits for its end."""
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def digest(workdir: Path) -> str:
    """Returns a digest of the arrays in the last checkpoint."""
    return str(in_process(checkpoint_digest, workdir / "checkpoints" / str(STEPS)))


def checkpoint_digest(folder: Path) -> str:
    """Returns a digest of the arrays in a checkpoint of the last step."""
    import jax
    import orbax.checkpoint as ocp

    from gsto_jax.runs.checkpoint import read_record

    if read_record(folder)["data"] != {"batches": STEPS}:
        return "wrong state of the data iterator"
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(folder / "state").item_metadata.tree
        state = reader.restore(
            folder / "state",
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved),
        )
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state)):
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        sha.update(leaf.tobytes())
    return sha.hexdigest()


def lines(workdir: Path, name: str) -> list[dict]:
    """Returns the records of a log of JSON lines, without truncated lines."""
    return list(in_process(_lines, workdir / name))


def _lines(path: Path) -> list[dict]:
    from gsto_jax.storage.log import open_log

    return open_log(path).read()


def remove(workdir: Path, copy: Path | None = None) -> None:
    """Deletes a workdir, after copying it to a local folder if that is not None."""
    in_process(_remove, workdir, copy)


def _remove(workdir: Path, copy: Path | None) -> bool:
    import fsspec

    files, path = fsspec.url_to_fs(str(workdir))
    if files.exists(path):
        if copy is not None:
            files.get(path, str(copy), recursive=True)
        files.rm(path, recursive=True)
    return True


def losses(workdir: Path) -> list[tuple[int, dict[str, float]]]:
    """Returns step and losses of each line of training.jsonl, in order."""
    return [
        (line["step"], {k: v for k, v in line.items() if k.startswith(("loss", "gradient"))})
        for line in lines(workdir, "training.jsonl")
    ]


def find_faults(workdir: Path, expected: dict[int, dict[str, float]], arrays: str) -> list[str]:
    """Returns what is wrong with a finished run."""
    faults = []
    logged = losses(workdir)
    if missing := sorted({*range(1, STEPS + 1)} - {step for step, _ in logged}):
        faults.append(f"steps {missing} are missing")
    starts = {line["step"] + 1 for line in lines(workdir, "starts.jsonl")}
    for (before, _), (after, _) in zip([(0, {}), *logged], logged, strict=False):
        if after != before + 1 and not (after <= before and after in starts):
            faults.append(f"step {after} came after {before}")
    faults += [f"step {step} has other losses" for step, loss in logged if loss != expected[step]]
    if digest(workdir) != arrays:
        faults.append("the last checkpoint has other arrays")
    scores = {line["step"]: line["mean_iou"] for line in lines(workdir, "evaluations.jsonl")}
    if sorted(scores) != [STEPS // 2, STEPS]:
        faults.append(f"evaluations of steps {sorted(scores)}")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Kills and checks runs. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000, help="number of kills")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="seed of the moments"
    )
    parser.add_argument("--csv", type=Path, help="file with one row per kill")
    parser.add_argument(
        "--life", type=float, help="seconds over which kills are uniform; by default those of a run"
    )
    parser.add_argument("--network", action="store_true", help="trains the network of the config")
    parser.add_argument(
        "--folder", type=Path, help="folder of the runs; by default a temporary one"
    )
    parser.add_argument("--bucket", action="store_true", help="runs in an emulator's bucket")
    parser.add_argument("--cache", type=Path, default=ROOT / "tests" / ".jax_cache")
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    prepare_imports(args.cache)
    if not args.network:
        from gsto_jax.training import task

        task.build_network = small_network()
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=args.folder))
    try:
        root = start_bucket() if args.bucket else folder
        return kill_runs(args, folder, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_bucket() -> Path:
    """Starts the emulator of a bucket, for this process and its forks; returns its URL."""
    from gsto_jax.storage import lock, to_path
    from tests.bucket import NAME, emulator

    lock.HEARTBEAT_SECONDS, lock.DEAD_SECONDS = 0.5, 1.5
    os.environ.update(emulator().variables)
    importlib.import_module("gcsfs")  # before the forks, since it takes a second
    return to_path(f"gs://{NAME}", "--bucket")


def undisturbed_run(folder: Path, root: Path) -> tuple[Path, float]:
    """Trains without kills; returns the workdir, and the seconds with a warm compilation cache."""
    workdir, output = root / "undisturbed", folder / "undisturbed.txt"
    for _ in range(2):  # the first one compiles
        remove(workdir)
        start_time = time.monotonic()
        wait(start(workdir, output), output)
    return workdir, time.monotonic() - start_time


def kill_runs(args: argparse.Namespace, folder: Path, root: Path) -> int:
    """Kills and checks runs until the number of kills is reached.

    Args:
      args: the flags.
      folder: local folder of the outputs.
      root: folder of the workdirs, local or in a bucket.

    Returns:
      The exit status.
    """
    undisturbed, seconds = undisturbed_run(folder, root)
    life = args.life or seconds
    expected, arrays = dict(losses(undisturbed)), digest(undisturbed)
    print(f"seed {args.seed}; a run takes {seconds:.1f} s; arrays {arrays[:16]}", flush=True)
    rng, rows, failed, run = random.Random(args.seed), [], [], 0
    start_time = time.monotonic()
    while len(rows) < args.kills:
        run += 1
        workdir, output, ended = root / f"run{run}", folder / f"run{run}.txt", False
        while not ended:
            if len(rows) == args.kills:
                output.unlink(missing_ok=True)
                ended = wait(start(workdir, output), output)
                continue
            row = kill_once(workdir, output, life, rng)
            ended = row is None
            if row is not None:
                rows.append({"kill": len(rows) + 1, "run": run, **row})
                if args.csv:
                    _write(args.csv, rows)
        copy = None
        if faults := find_faults(workdir, expected, arrays):
            copy = ROOT / f"fault-seed{args.seed}-run{run}"
            failed.append(run)
            print(f"run {run}: {'; '.join(faults)}; copied to {copy}", flush=True)
        remove(workdir, copy)
        if run % 10 == 0:
            print(
                f"{len(rows)} kills, {run} runs, {time.monotonic() - start_time:.0f} s", flush=True
            )
    saving = sum(row["state"] == "saving" for row in rows)
    print(
        f"{len(rows)} kills in {run} runs, {time.monotonic() - start_time:.0f} s; {saving} while a "
        f"checkpoint was being written; runs that differ: {failed or 'none'}"
    )
    return 1 if failed else 0


def kill_once(
    workdir: Path, output: Path, life: float, rng: random.Random
) -> dict[str, Any] | None:
    """Starts a run and kills it at a random moment; None if it ended before."""
    steps_before, target = _last_step(output), ""
    output.unlink(missing_ok=True)
    start_time, start_timestamp = time.monotonic(), time.time()
    process = start(workdir, output)
    if rng.random() < 0.5:
        target = "life"
        ended = wait(process, output, rng.uniform(0, life))
    else:
        step = rng.randint(steps_before + 1, STEPS) if steps_before < STEPS else STEPS
        target = f"step {step}"
        ended = wait(process, output, step=step)
        ended = ended or wait(process, output, 0.4 * rng.random() ** 2)
    if ended:
        return None
    kill(process)
    saved, is_saving = in_process(_checkpoints, workdir / "checkpoints", start_timestamp)
    return {
        "seconds": round(time.monotonic() - start_time, 3),
        "target": target,
        "state": "saving" if is_saving else "",
        "steps_before": steps_before,
        "steps_after": _last_step(output),
        "checkpoint": saved[-1] if saved else 0,
    }


def _checkpoints(folder: Path, since: float) -> tuple[list[int], bool]:
    """Returns the steps of the complete checkpoints, and whether there is an unfinished one.

    Unfinished ones of earlier kills may still exist, in a bucket also those older than a time.
    """
    from gsto_jax.runs.checkpoint import list_steps
    from gsto_jax.storage import is_remote
    from gsto_jax.storage.objects import list_names

    saved = list_steps(folder)
    if is_remote(folder):
        return saved, bool({*list_names(folder)} - {*map(str, saved)})
    return saved, any(path.stat().st_mtime >= since for path in folder.glob("*tmp*"))


def _write(path: Path, rows: Sequence[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
