"""Scaling over the chips of a TPU v5e pod, from train steps compiled ahead of time.

    python benchmarks/scaling_plan.py                         # all rows: most of a day on one core
    python benchmarks/scaling_plan.py w18s-weak-4 w18s-weak-16
    python benchmarks/scaling_plan.py --list                  # all rows, and which are in the CSV
    python benchmarks/scaling_plan.py --table --plot          # of the rows in the CSV
    python benchmarks/scaling_plan.py quickstart-weak-4 --csv=/tmp/trial.csv   # a small network

Needs the `tpu` extra, 16 GB of memory for W48, and no TPU. Compiles the train step of Cityscapes
configs in bfloat16 for 4, 16, 64 and 256 chips: 2 images per chip ("weak") and 512 images over all
chips ("strong"), with BN statistics over all chips and, in the rows that end in "groups", over the
images of each chip. The CSV holds the costs of the compiled programs; rows that are not requested
are kept.

Most of the compile time generates machine code, and more chips with the same images per chip run
the same program except for the participants of collectives. So rows that differ only in chips are
compiled up to the optimized program. If operations in only one of the two programs access at most
1 % of the bytes, a row copies the measurements of the other except for the collectives:
"copied_from" names that row, "difference" is the fraction of bytes, and "compile_seconds" the time
of the comparison. `--full` compiles in any case, such as after a change of the network.

More than 8 images per chip are accumulated in steps of 8 (`train.grad_accum_steps`), since W48 with
more does not fit into memory. A row whose batch does not fit is recorded too.

Times are estimated by `gsto_jax.plan.step_time`: the larger of bytes over bandwidth and cycles over
the clock, with collectives overlapped or added. Efficiency is the throughput per chip relative to
the row of the same series with the fewest chips that fits.
"""

import argparse
import importlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from benchmarks import scaling_report
from benchmarks.program_similarity import difference, operations
from benchmarks.scaling_report import (
    CHIP,
    GRIDS,
    MEASUREMENTS,
    NETWORKS,
    ROWS,
    Result,
    ScalingRow,
    same,
)
from gsto_jax.plan.compile import OutOfMemory, plan_step
from gsto_jax.plan.hlo import HLOProgram
from gsto_jax.plan.step_cost import count_collectives
from gsto_jax.plan.targets import compile_target
from modes.run_setup import parse_config

ON_REQUEST_ONLY = "quickstart"
"""A small network to try the benchmark; compiled only if requested by name."""
MAX_DIFFERENCE = 0.01
"""Maximum fraction of bytes that differs between programs that count as equal."""


def compile_row(row: ScalingRow) -> dict[str, Any]:
    """Compiles the step of a row; returns its measurements, per chip."""
    config = importlib.import_module(f"configs.{NETWORKS[row.network][0]}").get_config()
    target = compile_target(f"{CHIP}:{'x'.join(map(str, GRIDS[row.chips]))}")
    config.model.dtype = "bfloat16"
    config.model.bn_groups = row.chips if row.bn == "groups" else 1
    config.train.batch_size = row.images_per_chip * row.chips
    config.train.grad_accum_steps = row.grad_accum_steps
    task, data, _ = parse_config(config)
    start_time = time.perf_counter()
    try:
        plan = plan_step(task, target, config.train.batch_size, data.crop)
    except OutOfMemory as error:
        return {
            "fits": "no",
            "error": str(error),
            "peak_memory_GiB": round(error.required / 2**30, 3) if error.required else "",
            "compile_seconds": round(time.perf_counter() - start_time),
        }
    return {
        "fits": "yes",
        "peak_memory_GiB": round(plan.peak_memory / 2**30, 3),
        "accessed_GB": round(plan.bytes_accessed / 1e9, 4),
        "xla_Mcycles": round(plan.cost.xla_cycles / 1e6, 4),
        "kernel_Mcycles": round(plan.cost.kernel_cycles / 1e6, 4),
        "GFLOP": round(plan.flops / 1e9, 1),
        "kernel_calls": plan.num_kernel_calls,
        "collectives": scaling_report.format_collectives(plan.collectives),
        "compile_seconds": round(plan.compile_seconds),
    }


def optimized_program(row: ScalingRow) -> HLOProgram | None:
    """Compiles a row up to the optimized program; None if compilation fails before.

    A subprocess compiles, and is killed once it has dumped the program.

    Raises:
      RuntimeError: the compiler finished without a dump.
    """
    with TemporaryDirectory(prefix="gsto_scaling_") as folder:
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        environment = {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
            "TMPDIR": folder,  # for files that the killed compiler leaves
        }
        csv_path = Path(folder) / "rows.csv"
        compiler = subprocess.Popen(
            [sys.executable, __file__, row.name, "--full", f"--csv={csv_path}"],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
        )
        later = "_after_buffer_assignment"  # once this dump exists, the earlier one is complete
        try:
            while not (dumps := list(Path(folder).glob(f"*.after_optimizations{later}.txt"))):
                if compiler.poll() is not None:
                    if any(x["fits"] == "yes" for x in scaling_report.read_results(csv_path)):
                        raise RuntimeError(f"{row.name}: the compiler dumped no program")
                    return None
                time.sleep(1)
        finally:
            compiler.kill()
            compiler.wait()
        (path,) = dumps
        return HLOProgram.parse(path.with_name(path.name.replace(later, "")).read_text())


def copy_similar(row: ScalingRow, results: Sequence[Result]) -> dict[str, Any] | None:
    """Copies the measurements of a row with other chips and an equal program, if there is one."""
    start_time = time.perf_counter()
    candidates = [
        result
        for result in results
        if same(result, row._asdict(), "network", "images_per_chip", "bn")
        and result["fits"] == "yes"
        and not result["copied_from"]
    ]
    program = optimized_program(row) if candidates else None
    if program is None:
        return None
    row_operations = operations(program)
    candidates.sort(key=lambda x: abs(math.log(int(x["chips"]) / row.chips)))
    for candidate in candidates:
        other = optimized_program(ROWS[candidate["row"]])
        fraction = difference(row_operations, operations(other)) if other else 1.0
        if fraction <= MAX_DIFFERENCE:
            collectives = count_collectives(program.executions())
            return {name: candidate[name] for name in MEASUREMENTS} | {
                "collectives": scaling_report.format_collectives(collectives),
                "compile_seconds": round(time.perf_counter() - start_time),
                "copied_from": candidate["row"],
                "difference": f"{fraction:.5f}",
            }
    return None


def measure_row(row: ScalingRow, results: Sequence[Result], full: bool = False) -> dict[str, Any]:
    """Measures a row: copies it from another with the same or a similar step, or compiles it.

    Args:
      row: the row.
      results: the other measured rows.
      full: whether to compile in any case.
    """
    about = {"row": row.name} | row._asdict()
    if full:
        return about | compile_row(row)
    for other in results:
        if same(other, about, "network", "chips", "images_per_chip", "bn"):
            return about | {
                name: other[name] for name in (*MEASUREMENTS, "copied_from", "difference")
            }
    return about | (copy_similar(row, results) or compile_row(row))


def default_csv() -> Path:
    """Returns the CSV of the installed versions of JAX and the compiler."""
    try:
        compiler = version("libtpu")
    except PackageNotFoundError:
        compiler = "none"
    return Path(__file__).with_name(
        f"{Path(__file__).stem}_{CHIP}_jax{jax.__version__}_libtpu{compiler}.csv"
    )


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help="rows to measure; by default all missing ones")
    parser.add_argument("--csv", type=Path, help="file of the rows; by default next to this script")
    parser.add_argument("--full", action="store_true", help="copies nothing from other rows")
    parser.add_argument("--list", action="store_true", help="prints the names of all rows")
    parser.add_argument("--table", action="store_true", help="prints a Markdown table")
    parser.add_argument("--plot", nargs="?", type=Path, const=Path("docs/tpu_scaling.png"))
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}: --list prints all rows")
    return args


def report(path: Path, args: argparse.Namespace) -> None:
    """Prints the table and draws the plot."""
    results = scaling_report.read_results(path)
    if not results and not args.csv:  # another compiler, or none, is installed
        paths = path.parent.glob(f"{Path(__file__).stem}_{CHIP}_*.csv")
        results = scaling_report.read_results(max(paths, default=path))
    if not results:
        sys.exit(f"{path} has no rows: measure some first")
    if args.table:
        print(scaling_report.table(results))
    if args.plot:
        scaling_report.plot(results, args.plot)
        print(args.plot)


def main() -> None:
    """Measures rows, or prints a report of the measured ones."""
    args = parse_arguments()
    path = args.csv or default_csv()
    measured = {result["row"] for result in scaling_report.read_results(path)}
    if args.list:
        print("\n".join(f"{name}{' (measured)' if name in measured else ''}" for name in ROWS))
        return
    if args.table or args.plot:
        report(path, args)
        return
    jax.config.update("jax_platforms", "cpu")  # the chips need not be present
    jax.config.update("jax_enable_compilation_cache", False)  # it stores no schedules of kernels
    missing = [name for name in ROWS if name not in measured]
    missing = [name for name in missing if ROWS[name].network != ON_REQUEST_ONLY]
    for name in args.rows or missing:
        others = [x for x in scaling_report.read_results(path) if x["row"] != name]
        result = measure_row(ROWS[name], others, args.full)
        scaling_report.save_result(path, result)
        step_time = scaling_report.step_time(result)
        if step_time is None:
            print(f"{name}: does not fit: {result['error']}", flush=True)
        else:
            low, high = 1e3 * step_time.lower_bound, 1e3 * step_time.upper_bound
            memory = result["peak_memory_GiB"]
            print(f"{name}: {memory} GiB, {low:.2f} to {high:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
