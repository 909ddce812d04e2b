"""Fuzzes all parsers of files and command lines, and counts the outcomes.

    python benchmarks/fuzz.py --inputs=10000 [--seed=0] [--only=pth,tiles] [--failures=DIR]
        [--csv=FILE]

Inputs are valid files that were mutated with knowledge of their format (sizes in headers, offsets,
nested values, names), valid files with mutated bytes, and random bytes. A parser must either accept
an input, or reject it with one message (UserError or DataError; a command line exits with status
2). Anything else is a failure: another exception, an empty message, a crash, more than `MAX_MEMORY`
bytes, or more than `MAX_SECONDS` of CPU time. Failing inputs are saved with the reason.

Inputs are parsed in forked processes under resource limits, so that none affects the next. The same
seed gives the same inputs. Exits with status 1 if there was a failure.
"""

import argparse
import json
import logging
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.csv_rows import write_rows
from benchmarks.fuzz_targets import TARGETS
from benchmarks.fuzz_targets.mutation import Target

MAX_MEMORY = 2 * 2**30
"""Bytes of address space for an input, beyond that of the imports."""
MAX_SECONDS = 20
"""CPU time for an input."""
INPUTS_PER_PROCESS = 50
OUTCOMES = ("accepted", "rejected", "failed")


def parse_input(target: Target, data: bytes) -> tuple[str, str]:
    """Parses an input; returns one of `OUTCOMES` and the reason."""
    from data_pipelines import DataError
    from gsto_jax.errors import UserError

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            target.parse(data, Path(folder))
        except (UserError, DataError) as error:
            message = str(error).strip()
            return ("rejected", message[:200]) if message else ("failed", "an empty message")
        except BaseException:
            return "failed", traceback.format_exc()
    return "accepted", ""


def _parse_in_child(target: Target, inputs: Sequence[bytes], pipe: int) -> None:
    """Parses inputs under resource limits and writes the outcomes to a pipe."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MAX_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    with os.fdopen(pipe, "w") as results:
        for data in inputs:
            usage = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(usage.ru_utime + usage.ru_stime) + MAX_SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            results.write(json.dumps(parse_input(target, data)) + "\n")
            results.flush()


def outcomes(target: Target, inputs: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """Yields the outcome of each input, parsed in forked processes; a crash is a failure."""
    import data_pipelines  # noqa: F401
    import gsto_jax.errors  # noqa: F401  once, and not in each process

    start = 0
    while start < len(inputs):
        batch = inputs[start : start + INPUTS_PER_PROCESS]
        read, write = os.pipe()
        if not (process := os.fork()):
            os.close(read)
            try:
                _parse_in_child(target, batch, write)
            finally:
                os._exit(0)
        os.close(write)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(process, signal.SIGKILL))
        signal.alarm(30 * MAX_SECONDS)
        with os.fdopen(read) as pipe:
            results = [json.loads(line) for line in pipe if line.endswith("\n")]
        signal.alarm(0)
        _, status = os.waitpid(process, 0)
        yield from (tuple(result) for result in results)  # type: ignore[misc]
        start += len(results)
        if len(results) < len(batch):
            yield "failed", f"the process exited with {os.waitstatus_to_exitcode(status)}"
            start += 1


def fuzz_target(name: str, count: int, seed: int, failures: Path) -> dict[str, object]:
    """Fuzzes a target and saves the inputs that fail; returns a row of the CSV."""
    target = TARGETS[name][1]()
    inputs = [target.generate(random.Random(f"{seed} {name} {n}")) for n in range(count)]
    counts: Counter[str] = Counter()
    for n, (outcome, reason) in enumerate(outcomes(target, inputs)):
        counts[outcome] += 1
        if outcome == "failed":
            failures.mkdir(parents=True, exist_ok=True)
            path = failures / f"{name}-{seed}-{n}"
            path.with_suffix(".bin").write_bytes(inputs[n])
            path.with_suffix(".txt").write_text(reason)
    return {"target": name, "inputs": count, **{k: counts[k] for k in OUTCOMES}}


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes the targets, prints and writes the counts. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs")
    parser.add_argument("--only", default="", help="comma-separated names of targets")
    parser.add_argument(
        "--failures", type=Path, default=Path("fuzz-failures"), help="folder for failing inputs"
    )
    parser.add_argument("--csv", type=Path, help="file for the counts")
    args = parser.parse_args(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.disable(logging.CRITICAL)
    names = args.only.split(",") if args.only else list(TARGETS)
    total_weight = sum(TARGETS[name][0] for name in names)
    rows, start_time = [], time.monotonic()
    for name in names:
        count = math.ceil(args.inputs * TARGETS[name][0] / total_weight)
        rows.append(fuzz_target(name, count, args.seed, args.failures))
        print(rows[-1], f"{time.monotonic() - start_time:.0f} s", flush=True)
    if args.csv:
        write_rows(args.csv, rows)
    totals = {k: sum(int(str(row[k])) for row in rows) for k in ("inputs", *OUTCOMES)}
    failed = totals["failed"] > 0
    print(f"seed {args.seed}: {totals}" + (f"; see {args.failures}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
