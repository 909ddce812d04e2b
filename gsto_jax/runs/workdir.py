"""Folder of a training run: its files, and exclusive write access.

config.json          all options
init_from.json       pretrained weights, if any: path, SHA-256, coverage
starts.jsonl         one line per start: command, versions, devices, git revision, first step
training.jsonl       one line per log line: step, losses, learning rate, step time, throughput
                     (docs/observability.md)
ends.jsonl           one line per start that neither failed nor was killed: last step, exit status
evaluations.jsonl    one line per evaluation: step and scores
checkpoints/STEP/    latest checkpoints
best/STEP/           best checkpoint
eval-SPLIT/          scores and images of the last evaluation (`gsto_jax.evaluation.folder`)
submission-SPLIT.zip predictions for a benchmark server
report.html          report
tensorboard/, wandb/ metrics and images for TensorBoard, for Weights & Biases
trackers.json        ids of the run at Weights & Biases and in MLflow
profile/             profiler traces (`gsto_jax.training.profiling`)
"""

import contextlib
import platform
import secrets
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gsto_jax.devices import processes
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.files import read_json_object, to_json, write_text
from gsto_jax.runs.checkpoint import list_steps, package_versions
from gsto_jax.storage import is_folder, to_run_path
from gsto_jax.storage.errors import bucket_error_message, is_refused
from gsto_jax.storage.folder import check_writable, lock_folder
from gsto_jax.storage.lock import BucketLock
from gsto_jax.storage.log import BucketLog, LocalLog, open_log
from gsto_jax.storage.objects import read_object
from gsto_jax.types import Record

_SYNC_SECONDS = 30.0
"""Seconds until a file that one host wrote appears on the others in a shared file system."""


class Workdir:
    """Folder of a training run, local or in a bucket. Only process 0 writes to it.

    Args:
      path: the folder, which is created if missing.
      lock: whether to keep other runs from training in the folder until `close` or the end of the
        process. Has no effect on Windows and on file systems without locks.
      read_only: whether to open an existing run without writing and without initializing devices.

    Raises:
      UserError: the folder is not writable, is locked, or with `read_only` holds no run.
      TrainingError: the bucket does not answer.
    """

    def __init__(self, path: str | Path, lock: bool = False, read_only: bool = False) -> None:
        self.path = to_run_path(path, "--workdir")
        self._writes = not read_only and jax.process_index() == 0
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self._logs: dict[str, LocalLog | BucketLog] = {}
        with self._bucket_errors():
            if not read_only:
                check_writable(self.path, by_writing=self._writes)
            elif self.read_config() is None:
                raise UserError(
                    f"{self.path} is not the folder of a run, since it has no readable "
                    "config.json. Use the --workdir of a run"
                )
            self._lock = lock_folder(self.path) if lock and self._writes else None

    def close(self) -> None:
        """Writes buffered log lines and releases the lock."""
        # An error that ends the run must not be replaced by one that it caused.
        suppressed = contextlib.suppress(Exception) if sys.exception() else contextlib.nullcontext()
        with contextlib.closing(self._lock or contextlib.ExitStack()), suppressed:
            self._flush()

    def check_exists(self) -> None:
        """Raises TrainingError if the folder was removed, or is held by another start.

        A lock file shows that it was removed, since background writes may have created the folder
        again. A bucket is not read: its lock's heartbeat knows.
        """
        if isinstance(self._lock, BucketLock):
            self._check_lock(self._lock.lost)
        elif self._lock is not None and not (self.path / ".lock").exists():
            raise TrainingError(
                f"workdir {self.path} was removed during the run. Restore it, and rerun the same "
                "command"
            )

    def prepare_save(self) -> None:
        """Makes sure that a checkpoint may be written: the folder is held, its logs are complete.

        Raises:
          TrainingError: the folder was removed, is held by another start, or cannot be written.
        """
        self._flush()
        self.check_exists()
        self.check_held()

    def check_held(self) -> None:
        """Raises TrainingError if another start holds the folder; reads a bucket's lock."""
        if isinstance(self._lock, BucketLock):
            with self._bucket_errors():
                self._check_lock(self._lock.check())

    def _check_lock(self, loss: str) -> None:
        if loss:
            raise TrainingError(f"{loss}. This run stops, and has saved nothing since")

    @contextlib.contextmanager
    def _bucket_errors(self) -> Iterator[None]:
        """Converts errors of a bucket to a UserError if it refuses access, else TrainingError."""
        try:
            yield
        except (UserError, TrainingError):
            raise
        except Exception as error:
            message = bucket_error_message(error, self.path)
            if message is None:
                raise
            raise (UserError if is_refused(error) else TrainingError)(message) from None

    def check_shared(self) -> None:
        """Checks that all processes see the same folder; a collective call.

        Raises:
          UserError: the folder is not the folder of process 0; all other processes exit too.
        """
        if not processes.is_multiprocess():
            return
        token_file, token = self.path / ".shared", processes.broadcast(secrets.token_hex(8))
        if self._writes:
            token_file.write_text(token)
        deadline = time.monotonic() + _SYNC_SECONDS
        while read_object(token_file) != token.encode():
            if time.monotonic() > deadline:
                raise UserError(
                    f"--workdir={self.path} of process {jax.process_index()} "
                    f"({platform.node()}) is not the folder that process 0 sees there. Use a "
                    "folder that all hosts share"
                )
            time.sleep(0.5)
        processes.barrier()
        if self._writes:
            token_file.unlink()

    def read_config(self) -> dict[str, Any] | None:
        """Reads the config of the run; None if there is none."""
        return read_json_object(self.path / "config.json")

    def write_config(self, config: Mapping[str, Any], name: str = "config.json") -> None:
        """Writes the config, or another JSON file, atomically."""
        if self._writes:
            write_text(self.path / name, to_json(config, indent=2) + "\n")

    def write_start(
        self,
        command: Sequence[str],
        step: int,
        revision: str | None,
        setup_seconds: float | None = None,
    ) -> None:
        """Logs a start of the run: command, first step, code, versions and devices.

        Args:
          command: command line.
          step: number of completed steps.
          revision: commit of the code.
          setup_seconds: age of the process.
        """
        devices = jax.devices()
        self._append(
            "starts.jsonl",
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": list(command),
                "step": step,
                "setup_seconds": setup_seconds,
                "revision": revision,
                "versions": {"python": platform.python_version(), **package_versions()},
                "devices": f"{len(devices)} x {devices[0].device_kind}",
                "processes": jax.process_count(),
                "machine": f"{platform.system()} {platform.machine()}",
            },
        )
        self._flush()

    def read_starts(self) -> list[Record]:
        """Reads the starts of the run, oldest first."""
        return self._read_lines("starts.jsonl")

    def write_end(self, step: int, status: int, record: Record) -> None:
        """Logs the end of a start that neither failed nor was killed: steps, exit status, times."""
        self._append("ends.jsonl", {"step": step, "status": status} | record)
        self._flush()

    def read_ends(self) -> list[Record]:
        """Reads the ends of starts, oldest first."""
        return self._read_lines("ends.jsonl")

    def write_training(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs the metrics of a train step."""
        self._append("training.jsonl", {"step": step} | dict(metrics))

    def read_training_lines(self) -> list[Record]:
        """Reads training metrics, oldest first; those of lost and repeated steps too."""
        return self._read_lines("training.jsonl")

    def read_training(self) -> list[Record]:
        """Reads training metrics by ascending step; of a repeated step only the last line."""
        lines = self.read_training_lines()
        by_step = {line["step"]: line for line in lines if isinstance(line.get("step"), int)}
        return [by_step[step] for step in sorted(by_step)]

    def write_evaluation(self, record: Record) -> None:
        """Logs the scores of an evaluation, after which its checkpoint may be deleted."""
        self._append("evaluations.jsonl", record)
        self._flush()

    def read_evaluations(self) -> list[Record]:
        """Reads the scores of all evaluations, oldest first."""
        return self._read_lines("evaluations.jsonl")

    def _log(self, name: str) -> LocalLog | BucketLog:
        if name not in self._logs:
            self._logs[name] = open_log(self.path / name)
        return self._logs[name]

    def _read_lines(self, name: str) -> list[Record]:
        with self._bucket_errors():
            return self._log(name).read()

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        self.check_exists()
        try:
            with self._bucket_errors():
                self._log(name).append(record)
        except OSError as error:
            raise TrainingError(
                f"workdir {self.path} is no longer writable ({error.strerror}: {name}). Free up "
                "disk space or restore it, and rerun the same command"
            ) from None

    def _flush(self) -> None:
        """Writes the log lines that are buffered for a bucket."""
        with self._bucket_errors():
            for log in self._logs.values():
                log.flush()


def open_workdir(path: str | None) -> Workdir:
    """Opens the folder of a run that has checkpoints. Raises UserError if there is none."""
    if path is None:
        raise UserError("--workdir must be the folder of a run; got none")
    folder = to_run_path(path, "--workdir") / "checkpoints"
    if not list_steps(folder):
        problem = "is empty" if is_folder(folder) else "does not exist"
        raise UserError(
            f"no checkpoint: {folder} {problem}. Train the run first, or name another --workdir"
        )
    return Workdir(path)


def git_revision(folder: Path) -> str | None:
    """Returns the commit of a git checkout, with "+" if files differ; None for other folders."""
    if not (folder / ".git").exists():  # the folder of an environment may lie in any checkout
        return None

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def code_checksum(folders: Sequence[Path]) -> str:
    """Returns a checksum of the names and contents of the Python files in some folders."""
    checksum = 0
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            name = str(path.relative_to(folder)).encode()
            checksum = zlib.crc32(name + path.read_bytes(), checksum)
    return f"{checksum:08x}"
