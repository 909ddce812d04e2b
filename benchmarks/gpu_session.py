"""Runs the GPU benchmarks in one session of limited length on a machine without network.

    python benchmarks/gpu_session.py [PART ...] [--minutes=12] [--output=DIR] [--cache=DIR]

PARTs are the names of `PARTS`, by default all in their order, the most important first. The
commands of a part run one after the other, except that `compile` runs its own at the same time. A
part that reaches its limit is ended and leaves its CSV files, which are written as it goes; the
session ends on time whatever happens. Logs and CSV files are in --output, by default `gpu_session`;
compiled programs in --cache, by default there too, so that a second session with other parts starts
quickly. Needs JAX and PyTorch for the GPU, and the `train` extra.

`compile` saves time, but XLA's autotuning then times kernels while other programs use the GPU, and
the other parts reuse its choices from --cache. To have each program of JAX autotuned alone, run
`gpu_speed.py --runtimes=jax` without --cache, which compiles one after the other.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
GSTO, ALL = "gsto-w18s gsto-w48", "gsto-w18s gsto-w48 hrnet-w18s hrnet-w48"


class Part(NamedTuple):
    """Commands with a limit in seconds for all of them; scripts of this folder with arguments."""

    seconds: int
    commands: Sequence[str]
    parallel: bool = False


PARTS = {
    "compile": Part(
        200,
        ["gpu_gates.py --calls=0"]
        + [
            f"gpu_speed.py {network} --steps={step} --runtimes=jax --calls=0"
            for network in ALL.split()
            for step in ("train", "inference")
        ],
        parallel=True,
    ),
    "jax": Part(100, [f"gpu_speed.py {ALL} --runtimes=jax"]),
    "profile": Part(70, [f"gpu_profile.py {GSTO}"]),
    "compiled-w18s": Part(150, ["gpu_speed.py gsto-w18s --runtimes=compiled,eager"]),
    "compiled-w48": Part(180, ["gpu_speed.py gsto-w48 --runtimes=compiled,eager"]),
    "flags": Part(110, ["gpu_flags.py gsto-w18s"]),
    "eager": Part(60, ["gpu_speed.py hrnet-w18s hrnet-w48 --runtimes=eager"]),
    "gates": Part(60, ["gpu_gates.py"]),
    "compiled-hrnet": Part(300, ["gpu_speed.py hrnet-w18s hrnet-w48 --runtimes=compiled"]),
    "batches": Part(600, [f"gpu_speed.py {GSTO} --batches=1,4,16 --runtimes=jax,compiled"]),
    "large": Part(600, [f"gpu_speed.py {GSTO} --batches=1,4 --sizes=1024x2048"]),
}
"""Parts by name. The last ones run only if the others leave them time, or when they are named."""


def run_part(name: str, part: Part, seconds: float, output: Path, cache: Path) -> None:
    """Runs the commands of a part; ends those that run when its time is over.

    Args:
      name: name of the part, and of its logs.
      part: the commands.
      seconds: time for all of them.
      output: folder of logs and CSV files.
      cache: folder of the compilation cache.
    """
    end = time.monotonic() + min(part.seconds, seconds)
    running: list[subprocess.Popen[bytes]] = []
    for number, command in enumerate(part.commands):
        script, *arguments = command.split()
        arguments += [f"--csv={output / script.removesuffix('.py')}", f"--cache={cache}"]
        with (output / f"{name}{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(HERE / script), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append(process)
        if not part.parallel:
            wait(process, end)
    for process in running:
        wait(process, end)


def wait(process: "subprocess.Popen[bytes]", end: float) -> None:
    """Waits for a process until a time, then ends it with its subprocesses."""
    try:
        process.wait(max(end - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    """Runs the parts until the time is over, and prints the ends of their logs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=12, help="length of the session")
    parser.add_argument("--output", default="gpu_session", help="folder of logs and CSV files")
    parser.add_argument("--cache", help="folder of compiled programs")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    output = Path(args.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for name in args.parts or PARTS:
        left = 60 * args.minutes - (time.monotonic() - start)
        if left < 15:
            print(f"left out: {name}, no time left", flush=True)
            continue
        part_start = time.monotonic()
        run_part(name, PARTS[name], left, output, Path(args.cache or output / "cache"))
        print(f"== {name}: {time.monotonic() - part_start:.0f} s", flush=True)
        for log in sorted(output.glob(f"{name}[0-9]*.log")):
            lines = log.read_text(errors="replace").splitlines()
            print("\n".join(line[:300] for line in lines[-6:]), flush=True)


if __name__ == "__main__":
    main()
