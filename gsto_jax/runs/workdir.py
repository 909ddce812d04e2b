"""The folder of a run: what is in it, and who may write to it.

config.json          every setting
init_from.json       the file of weights that the run started from, if any: path, SHA-256, coverage
starts.jsonl         one line for each start: command, versions, devices, revision, first step
training.jsonl       one line for each report while training: step, losses, learning rate, and where
                     the time goes (docs/observability.md)
evaluations.jsonl    one line for each evaluation: step and scores
checkpoints/STEP/    the newest checkpoints
best/STEP/           the best one evaluated
eval-SPLIT/          scores and images of the last evaluation (`gsto_jax.evaluation.folder`)
submission-SPLIT.zip predictions for a benchmark's server
report.html          a page about the run
tensorboard/         metrics and images over time
profile/             records of a few steps, where asked for (`gsto_jax.training.profiling`)
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
from gsto_jax.runs.checkpoint import Record, steps, versions

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SEEN = 30.0
"""Seconds until a shared file system shows on one host what another one wrote."""


class Workdir:
    """The folder of a run. Of several processes only the first one writes to it.

    Args:
      path: the folder; made if need be.
      hold: keeps other processes from training in it until this one ends or calls `close`; not on
        Windows, and not on file systems without locks.
      read_only: leaves it as it is, and starts no device; it must be a run.

    Raises:
      UserError: it cannot be written, another process holds it, or it is no run.
    """

    def __init__(self, path: str | Path, hold: bool = False, read_only: bool = False) -> None:
        self.path = Path(path).expanduser().absolute()
        self._writes = not read_only and jax.process_index() == 0
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        if not read_only:
            _check_writable(self.path)
        elif self.config() is None:
            raise UserError(
                f"{self.path} is no run: it has no config.json that can be read. Give the "
                "--workdir of a run"
            )
        self._lock = _lock(self.path) if hold and self._writes else None

    def close(self) -> None:
        """Lets other processes train in the folder."""
        if self._lock is not None:
            self._lock.close()

    def check_there(self) -> None:
        """Raises TrainingError if the folder that this process holds was removed.

        What is being written in the background may bring it back, but not what was in it.
        """
        if self._lock is not None and not (self.path / ".lock").exists():
            raise TrainingError(
                f"workdir {self.path} was removed while the run went on: bring it back, and give "
                "the same command again"
            )

    def check_shared(self) -> None:
        """Compares the folder over all processes, which each must call this.

        Raises:
          UserError: it is not that of process 0. The other processes end with that too.
        """
        if not processes.several():
            return
        sign, token = self.path / ".shared", processes.from_first(secrets.token_hex(8))
        if self._writes:
            sign.write_text(token)
        end = time.monotonic() + _SEEN
        while not (sign.exists() and sign.read_text() == token):
            if time.monotonic() > end:
                raise UserError(
                    f"--workdir={self.path} of process {jax.process_index()} "
                    f"({platform.node()}) is not the folder that process 0 sees there: give one "
                    "that all hosts share"
                )
            time.sleep(0.5)
        processes.together()
        if self._writes:
            sign.unlink()

    def config(self) -> dict[str, Any] | None:
        """The configuration of the run in the folder; None where there is none."""
        return read_json_object(self.path / "config.json")

    def write_config(self, config: Mapping[str, Any], name: str = "config.json") -> None:
        """Writes the configuration, or what another JSON file holds, whole or not at all."""
        if self._writes:
            write_text(self.path / name, to_json(config, indent=2) + "\n")

    def write_start(self, command: Sequence[str], step: int, revision: str | None) -> None:
        """Adds a line that says what runs here from now on."""
        devices = jax.devices()
        self._append(
            "starts.jsonl",
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": list(command),
                "step": step,
                "revision": revision,
                "versions": {"python": platform.python_version(), **versions()},
                "devices": f"{len(devices)} x {devices[0].device_kind}",
                "processes": jax.process_count(),
                "machine": f"{platform.system()} {platform.machine()}",
            },
        )

    def write_training(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a line of numbers of a step."""
        self._append("training.jsonl", {"step": step} | dict(scalars))

    def training(self) -> list[Record]:
        """Lines of numbers by step, ascending; a step that was taken twice counts once."""
        lines = self._lines("training.jsonl")
        by_step = {line["step"]: line for line in lines if isinstance(line.get("step"), int)}
        return [by_step[step] for step in sorted(by_step)]

    def write_evaluation(self, record: Record) -> None:
        """Adds a line of scores."""
        self._append("evaluations.jsonl", record)

    def evaluations(self) -> list[Record]:
        """All lines of scores, oldest first."""
        return self._lines("evaluations.jsonl")

    def starts(self) -> list[Record]:
        """What ran here, oldest first."""
        return self._lines("starts.jsonl")

    def _lines(self, name: str) -> list[Record]:
        path = self.path / name
        records = []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):  # the process died while it wrote the line
                records.append(parse_json(line))
        return [record for record in records if isinstance(record, dict)]

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        self.check_there()
        try:
            with (self.path / name).open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write((to_json(record) + "\n").encode())
        except OSError as error:
            raise TrainingError(
                f"workdir {self.path} can no longer be written ({error.strerror}: {name}): make "
                "room or bring it back, and give the same command again"
            ) from None


def existing(path: str | None) -> Workdir:
    """The folder of a run that has checkpoints. Raises UserError where there is none."""
    if path is None:
        raise UserError("no run is given: give the folder of one as --workdir")
    folder = Path(path).expanduser().absolute() / "checkpoints"
    if not steps(folder):
        problem = "is empty" if folder.is_dir() else "does not exist"
        raise UserError(f"no checkpoint: {folder} {problem}. Give the --workdir of a run")
    return Workdir(path)


def revision(folder: Path) -> str | None:
    """Commit of the git checkout that a folder is, with "+" if files differ; None elsewhere."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def code_checksum(folders: Sequence[Path]) -> str:
    """Returns a checksum of the Python files in some folders, names and contents."""
    checksum = 0
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            name = str(path.relative_to(folder)).encode()
            checksum = zlib.crc32(name + path.read_bytes(), checksum)
    return f"{checksum:08x}"


def _check_writable(folder: Path) -> None:
    if to_unicode(str(folder)) != str(folder):
        raise UserError(
            f"workdir {str(folder)!r} is not UTF-8, and checkpoints cannot be written there: give "
            "another --workdir"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except FileExistsError:
        raise UserError(f"workdir {folder} is a file: give a folder as --workdir") from None
    except OSError as error:
        raise UserError(
            f"workdir {folder} cannot be written ({error.strerror}): give a writable --workdir"
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
            f"workdir {folder} is in use by process {holder}: wait for it, or give another one"
        ) from None
    except OSError:
        pass  # a file system without locks
    with name_in_errors(folder / ".lock"):
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    return file
