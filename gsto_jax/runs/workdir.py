"""Folder of a training run: its files, and exclusive write access.

config.json          all options
init_from.json       pretrained weights, if any: path, SHA-256, coverage
starts.jsonl         one line per start: command, versions, devices, git revision, first step
training.jsonl       one line per log line: step, losses, learning rate, step time, throughput
                     (docs/observability.md)
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
import os
import platform
import secrets
import subprocess
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax

from gsto_jax.devices import processes
from gsto_jax.errors import TrainingError, UserError
from gsto_jax.files import (
    name_in_errors,
    parse_json,
    read_json_object,
    to_json,
    to_unicode,
    write_text,
)
from gsto_jax.runs.checkpoint import Record, list_steps, package_versions

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SYNC_SECONDS = 30.0
"""Seconds until a file that one host wrote appears on the others in a shared file system."""


class Workdir:
    """Folder of a training run. Only process 0 writes to it.

    Args:
      path: the folder, which is created if missing.
      lock: whether to keep other runs from training in the folder until `close` or the end of the
        process. Has no effect on Windows and on file systems without locks.
      read_only: whether to open an existing run without writing and without initializing devices.

    Raises:
      UserError: the folder is not writable, is locked, or with `read_only` holds no run.
    """

    def __init__(self, path: str | Path, lock: bool = False, read_only: bool = False) -> None:
        self.path = Path(path).expanduser().absolute()
        self._writes = not read_only and jax.process_index() == 0
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        if not read_only:
            _check_writable(self.path)
        elif self.read_config() is None:
            raise UserError(
                f"{self.path} is not the folder of a run, since it has no readable config.json. "
                "Use the --workdir of a run"
            )
        self._lock = _lock(self.path) if lock and self._writes else None

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()

    def check_exists(self) -> None:
        """Raises TrainingError if the locked folder has been removed.

        The lock file shows it, since background writes may have created the folder again.
        """
        if self._lock is not None and not (self.path / ".lock").exists():
            raise TrainingError(
                f"workdir {self.path} was removed during the run. Restore it, and rerun the same "
                "command"
            )

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
        while not (token_file.exists() and token_file.read_text() == token):
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

    def write_start(self, command: Sequence[str], step: int, revision: str | None) -> None:
        """Logs a start of the run: command, first step, code, versions and devices."""
        devices = jax.devices()
        self._append(
            "starts.jsonl",
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": list(command),
                "step": step,
                "revision": revision,
                "versions": {"python": platform.python_version(), **package_versions()},
                "devices": f"{len(devices)} x {devices[0].device_kind}",
                "processes": jax.process_count(),
                "machine": f"{platform.system()} {platform.machine()}",
            },
        )

    def read_starts(self) -> list[Record]:
        """Reads the starts of the run, oldest first."""
        return self._read_lines("starts.jsonl")

    def write_training(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a train step."""
        self._append("training.jsonl", {"step": step} | dict(metrics))

    def read_training(self) -> list[Record]:
        """Reads training metrics by ascending step; of a repeated step only the last line."""
        lines = self._read_lines("training.jsonl")
        by_step = {line["step"]: line for line in lines if isinstance(line.get("step"), int)}
        return [by_step[step] for step in sorted(by_step)]

    def write_evaluation(self, record: Record) -> None:
        """Logs the scores of an evaluation."""
        self._append("evaluations.jsonl", record)

    def read_evaluations(self) -> list[Record]:
        """Reads the scores of all evaluations, oldest first."""
        return self._read_lines("evaluations.jsonl")

    def _read_lines(self, name: str) -> list[Record]:
        path = self.path / name
        records = []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):  # the process was killed while it wrote the line
                records.append(parse_json(line))
        return [record for record in records if isinstance(record, dict)]

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        self.check_exists()
        try:
            with (self.path / name).open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write((to_json(record) + "\n").encode())
        except OSError as error:
            raise TrainingError(
                f"workdir {self.path} is no longer writable ({error.strerror}: {name}). Free up "
                "disk space or restore it, and rerun the same command"
            ) from None


def open_workdir(path: str | None) -> Workdir:
    """Opens the folder of a run that has checkpoints. Raises UserError if there is none."""
    if path is None:
        raise UserError("--workdir must be the folder of a run; got none")
    folder = Path(path).expanduser().absolute() / "checkpoints"
    if not list_steps(folder):
        problem = "is empty" if folder.is_dir() else "does not exist"
        raise UserError(
            f"no checkpoint: {folder} {problem}. Train the run first, or name another --workdir"
        )
    return Workdir(path)


def git_revision(folder: Path) -> str | None:
    """Returns the commit of a git checkout, with "+" if files differ; None without git."""

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


def _check_writable(folder: Path) -> None:
    if to_unicode(str(folder)) != str(folder):
        raise UserError(f"--workdir must be valid UTF-8, which orbax requires; got {str(folder)!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except FileExistsError:
        raise UserError(f"--workdir must be a folder; got the file {folder}") from None
    except OSError as error:
        raise UserError(
            f"workdir {folder} is not writable ({error.strerror}). Use a writable --workdir"
        ) from error


def _lock(folder: Path) -> IO[str]:
    file = (folder / ".lock").open("a+")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "?"
        file.close()
        raise UserError(
            f"workdir {folder} is in use by process {holder}. Wait for it, or use another --workdir"
        ) from None
    except OSError:
        pass  # the file system has no locks
    with name_in_errors(folder / ".lock"):
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    return file
