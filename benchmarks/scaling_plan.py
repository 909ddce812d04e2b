"""How training scales over the chips of a v5e pod, on paper: compiled ahead of time, then computed.

    python benchmarks/scaling_plan.py                         # all rows: most of a day of one core
    python benchmarks/scaling_plan.py w18s-weak-4 w18s-weak-16
    python benchmarks/scaling_plan.py --list                  # the rows, and which are there
    python benchmarks/scaling_plan.py --table --plot          # of the rows that are there
    python benchmarks/scaling_plan.py quickstart-weak-4 --csv=/tmp/trial.csv   # a small network

Needs the `tpu` extra, 16 GB of memory for W48, and no TPU. Compiles the very train step of
Cityscapes' configurations in bfloat16 for 4, 16, 64 and 256 chips: 2 images a chip ("weak") and
512 images over all ("strong"), with the statistics of BN over all chips and, in the rows that end
in "groups", over the images of each chip. The CSV holds what the compiled program says of itself,
row by row, and keeps the rows that were not asked for.

Nine tenths of compiling make machine code, and more chips with the same images each run the same
program, but for who takes part in its sums. So where a row that was compiled whole differs from
another in chips alone, both are compiled until they are optimized. If operations that only one of
them runs move at most 1 in 100 bytes, the other takes what the first has measured, all but its
collectives: "like" names it, "unlike" is that share, "compile_s" how long it took to see. `--whole`
compiles all the same, such as after a change of the network.

More than 8 images a chip go through in parts of 8 (`train.grad_accum_steps`): a chip has no room
for more of W48; a row whose batch still does not fit is a row, too.

Times come from `gsto_jax.plan.step_time`: the longer of bytes over bandwidth and cycles over the
clock, and the collectives either hidden behind that or after it. Efficiency is the images a
second and chip over those of the row of the same series with the fewest chips that fits, 4 if it
does.
"""

import argparse
import csv
import importlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from benchmarks.likeness import difference, operations
from gsto_jax.files import atomic_write
from gsto_jax.plan.compile import OutOfMemory, plan_step
from gsto_jax.plan.hlo import Program
from gsto_jax.plan.step_cost import count_collectives
from gsto_jax.plan.step_time import StepTime, tpu_step_time
from gsto_jax.plan.targets import compile_target
from modes.run_setup import parse_config

CHIP = "v5e"
GRIDS = {4: (2, 2), 16: (4, 4), 64: (8, 8), 256: (16, 16)}
EACH, ALL = 2, 512
"""Images a chip of the weak series, and over all chips of the strong one."""
NETWORKS = {
    "w18s": ("cityscapes_w18s", tuple(GRIDS)),
    "w48": ("cityscapes_w48", (4, 256)),
    "quickstart": ("quickstart", tuple(GRIDS)),
}
NOT_ASKED_FOR = "quickstart"
"""Only to see that all of it works: its rows are compiled where they are named."""
PART = 8
"""Images that a chip takes at once."""
LIKE = 0.01
"""Share of bytes that operations may move which two programs do not share, if they are alike."""

Found = Mapping[str, Any]


class Row(NamedTuple):
    """A step.

    Attributes:
      network: of `NETWORKS`.
      series: "weak" or "strong".
      chips: of `GRIDS`.
      images: a chip.
      bn: "all", or "groups": statistics of each chip's images.
    """

    network: str
    series: str
    chips: int
    images: int
    bn: str

    @property
    def name(self) -> str:
        """As it is asked for."""
        end = "" if self.bn == "all" else f"-{self.bn}"
        return f"{self.network}-{self.series}-{self.chips}{end}"

    @property
    def parts(self) -> int:
        """In how many a chip's images go through."""
        return max(1, self.images // PART)


def _rows() -> Iterator[Row]:
    """In the order of the table."""
    for network, (_, sizes) in NETWORKS.items():
        found = [
            Row(network, series, chips, EACH if series == "weak" else ALL // chips, bn)
            for bn, series, chips in product(("all", "groups"), ("weak", "strong"), sizes)
        ]
        yield from sorted(found, key=lambda row: (row.bn, row.images, row.chips))


ROWS = {row.name: row for row in _rows()}
MEASURED = (
    *("fits", "why_not", "peak_GiB", "GB", "Mcycles_xla", "Mcycles_kernels", "GFLOP"),
    *("kernel_calls", "collectives", "compile_s"),
)
FIELDS = ("row", *Row._fields, *MEASURED, "like", "unlike")


def measure(row: Row) -> dict[str, Any]:
    """Compiles a row's step; all of it is of one chip."""
    config = importlib.import_module(f"configs.{NETWORKS[row.network][0]}").get_config()
    target = compile_target(f"{CHIP}:{'x'.join(map(str, GRIDS[row.chips]))}")
    config.model.dtype = "bfloat16"
    config.model.bn_groups = row.chips if row.bn == "groups" else 1
    config.train.batch_size, config.train.grad_accum_steps = row.images * row.chips, row.parts
    task, data, _ = parse_config(config)
    began = time.perf_counter()
    try:
        found = plan_step(task, target, config.train.batch_size, data.crop)
    except OutOfMemory as error:
        peak = round(error.required / 2**30, 3) if error.required else ""
        seconds = round(time.perf_counter() - began)
        return {"fits": "no", "why_not": str(error), "peak_GiB": peak, "compile_s": seconds}
    return {
        "fits": "yes",
        "peak_GiB": round(found.peak_memory / 2**30, 3),
        "GB": round(found.bytes_accessed / 1e9, 4),
        "Mcycles_xla": round(found.cost.xla_cycles / 1e6, 4),
        "Mcycles_kernels": round(found.cost.kernel_cycles / 1e6, 4),
        "GFLOP": round(found.flops / 1e9, 1),
        "kernel_calls": found.num_kernel_calls,
        "collectives": written(found.collectives),
        "compile_s": round(found.compile_seconds),
    }


def written(collectives: Mapping[str, tuple[int, int]]) -> str:
    """Kinds with how many and their bytes, such as "all-reduce 191 143400000; all-gather 2 80"."""
    return "; ".join(f"{kind} {count} {size}" for kind, (count, size) in collectives.items())


def read(collectives: str) -> dict[str, tuple[int, int]]:
    """What `written` wrote."""
    parts = (part.split() for part in collectives.split("; ") if part)
    return {kind: (int(count), int(size)) for kind, count, size in parts}


def times(found: Found) -> StepTime | None:
    """How long a row's step takes on paper; None where it does not fit."""
    if found["fits"] != "yes":
        return None
    size, cycles = 1e9 * float(found["GB"]), 1e6 * mega_cycles(found)
    return tpu_step_time(
        CHIP,
        GRIDS[int(found["chips"])],
        bytes_accessed=size,
        cycles=cycles,
        collectives=read(found["collectives"]),
    )


def mega_cycles(found: Found) -> float:
    """Of XLA's operations and of kernels."""
    return float(found["Mcycles_xla"]) + float(found["Mcycles_kernels"])


def rate(found: Found, hidden: bool) -> float | None:
    """Images a second and chip, with collectives hidden or not; None where it does not fit."""
    seconds = times(found)
    if seconds is None:
        return None
    return int(found["images"]) / (seconds.lower_bound if hidden else seconds.upper_bound)


def efficiency(found: Found, rows: Sequence[Found], hidden: bool) -> tuple[float, int] | None:
    """Images a second and chip over those of the fewest chips of the same series that fit.

    Args:
      found: a row.
      rows: all of them.
      hidden: whether collectives hide behind the rest.

    Returns:
      The ratio, and how many chips it is to; None where the row does not fit.
    """
    own = rate(found, hidden)
    if own is None:
        return None
    alike = [
        other for other in rows if _same(other, found, "network", "series", "bn") and times(other)
    ]
    first = min(alike, key=lambda other: int(other["chips"]))
    base = rate(first, hidden)
    assert base is not None, "it fits"
    return own / base, int(first["chips"])


def table(rows: Sequence[Found]) -> str:
    """Markdown, a line a row."""
    heads = (
        *("row", "chips", "a chip", "GiB", "GB", "Mcycles", "collectives", "MB"),
        *("chip, ms", "collectives, ms", "step, ms", "images/s", "efficiency, %", "of"),
        "measured in",
    )
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for found in rows:
        parts = ROWS[found["row"]].parts
        images = found["images"] if parts == 1 else f"{parts} x {int(found['images']) // parts}"
        start = [found["row"], found["chips"], images, found["peak_GiB"] or "-"]
        seconds = times(found)
        if seconds is None:
            why = f"does not fit: {found['why_not']}"
            lines.append(f"| {' | '.join([*start, why, *[''] * (len(heads) - len(start) - 1)])} |")
            continue
        ratios = [efficiency(found, rows, hidden) for hidden in (False, True)]
        assert ratios[0] and ratios[1] and seconds.collectives is not None
        kinds = read(found["collectives"])
        whole = int(found["images"]) * int(found["chips"])
        cells = (
            f"{float(found['GB']):.2f}",
            f"{mega_cycles(found):.2f}",
            ", ".join(f"{count} {kind}" for kind, (count, _) in kinds.items()),
            f"{sum(size for _, size in kinds.values()) / 1e6:.1f}",
            f"{1e3 * max(seconds.memory, seconds.compute):.1f}",
            f"{1e3 * seconds.collectives:.2f}",
            f"{1e3 * seconds.lower_bound:.1f} to {1e3 * seconds.upper_bound:.1f}",
            f"{whole / seconds.upper_bound:.0f} to {whole / seconds.lower_bound:.0f}",
            " to ".join(f"{100 * x:.0f}" for x in sorted((ratios[0][0], ratios[1][0]))),
            f"{ratios[0][1]} chips",
            f"{found['like']}, {100 * float(found['unlike']):.2f} % apart" if found["like"] else "",
        )
        lines.append(f"| {' | '.join([*start, *cells])} |")
    return "\n".join(lines)


def plot(rows: Sequence[Found], path: Path) -> None:
    """Draws the efficiency of both series over the chips; a band from most to least time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, series in zip(figure.subplots(1, 2, sharey=True), ("weak", "strong"), strict=True):
        of = f"{EACH} images a chip" if series == "weak" else f"{ALL} images over all chips"
        axes.set(title=f"{series}: {of}", xlabel="chips (x: does not fit)", xscale="log")
        axes.set_xticks(list(GRIDS), list(map(str, GRIDS)), minor=False)
        axes.set_xlim(3, 340)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        kinds = dict.fromkeys((found["network"], found["bn"]) for found in rows)
        for n, (network, bn) in enumerate(kinds):
            own = [
                found
                for found in rows
                if (found["network"], found["bn"], found["series"]) == (network, bn, series)
            ]
            fit = sorted((x for x in own if times(x)), key=lambda x: int(x["chips"]))
            label = f"{network}, BN over {'all chips' if bn == 'all' else 'each chip'}"
            chips = [int(found["chips"]) for found in fit]
            bounds = [
                [100 * (efficiency(found, rows, hidden) or (0.0, 0))[0] for found in fit]
                for hidden in (False, True)
            ]
            axes.fill_between(chips, *bounds, color=f"C{n}", alpha=0.2)
            axes.plot(chips, bounds[0], "o-", color=f"C{n}", label=label)
            missing = [int(found["chips"]) for found in own if not times(found)]
            axes.plot(missing, [0] * len(missing), "x", color=f"C{n}")
    figure.axes[0].set(ylabel="expected efficiency, %", ylim=(-4, 108))
    figure.axes[0].legend(
        fontsize="small", loc="lower left", title="band: collectives hidden or not"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def saved(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, in the order of `ROWS`."""
    if not path.exists():
        return []
    with path.open() as file:
        lines = [dict.fromkeys(FIELDS, "") | found for found in csv.DictReader(file)]
    known = {found["row"]: found for found in lines}
    return [known[name] for name in ROWS if name in known]


def save(path: Path, found: Found) -> None:
    """Puts a row into a CSV, in place of the one that is there."""
    known = {x["row"]: x for x in saved(path)} | {found["row"]: found}
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(known[name] for name in ROWS if name in known)


def optimized(row: Row) -> Program | None:
    """A row's step before machine code is made; None if it does not come that far.

    A process compiles, and is stopped where it has written the program down.

    Raises:
      RuntimeError: it compiled all of it, and wrote none down.
    """
    with TemporaryDirectory(prefix="gsto_scaling_") as folder:
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        # Where all that it leaves lies, too.
        told = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", "TMPDIR": folder}
        table = Path(folder) / "rows.csv"
        compiler = subprocess.Popen(
            [sys.executable, __file__, row.name, "--whole", f"--csv={table}"],
            env=os.environ | told,
            stdout=subprocess.DEVNULL,
        )
        later = "_after_buffer_assignment"  # the same again, when the first is whole
        try:
            while not (dumps := list(Path(folder).glob(f"*.after_optimizations{later}.txt"))):
                if compiler.poll() is not None:
                    if any(found["fits"] == "yes" for found in saved(table)):
                        raise RuntimeError(f"{row.name}: the compiler left no optimized program")
                    return None
                time.sleep(1)
        finally:
            compiler.kill()
            compiler.wait()
        (path,) = dumps
        return Program.parse(path.with_name(path.name.replace(later, "")).read_text())


def alike(row: Row, rows: Sequence[Found]) -> dict[str, Any] | None:
    """What a row of other chips has measured, if its program is the same; None if there is none."""
    began = time.perf_counter()
    others = {
        found["chips"]: found
        for found in rows
        if _same(found, row._asdict(), "network", "images", "bn")
        and found["fits"] == "yes"
        and not found["like"]
    }
    own = optimized(row) if others else None
    if own is None:
        return None
    its = operations(own)
    for chips in sorted(others, key=lambda x: abs(math.log(int(x) / row.chips))):
        theirs = optimized(ROWS[others[chips]["row"]])
        apart = difference(its, operations(theirs)) if theirs else 1.0
        if apart <= LIKE:
            return {name: others[chips][name] for name in MEASURED} | {
                "collectives": written(count_collectives(own.executions())),
                "compile_s": round(time.perf_counter() - began),
                "like": others[chips]["row"],
                "unlike": f"{apart:.5f}",
            }
    return None


def _same(first: Found, second: Found, *fields: str) -> bool:
    return all(str(first[k]) == str(second[k]) for k in fields)


def found_of(row: Row, rows: Sequence[Found], whole: bool = False) -> dict[str, Any]:
    """A row by another that shares its step, by one that is alike, or compiled.

    Args:
      row: which.
      rows: those that are there.
      whole: compile it whatever is there.
    """
    about = {"row": row.name} | row._asdict()
    if whole:
        return about | measure(row)
    for other in rows:
        if _same(other, about, "network", "chips", "images", "bn"):
            return about | {name: other[name] for name in (*MEASURED, "like", "unlike")}
    return about | (alike(row, rows) or measure(row))


def default_csv() -> Path:
    """Beside this file, by the versions of JAX and of the compiler."""
    try:
        compiler = version("libtpu")
    except PackageNotFoundError:
        compiler = "none"
    here = Path(__file__)
    return here.with_name(f"{here.stem}_{CHIP}_jax{jax.__version__}_libtpu{compiler}.csv")


def main() -> None:
    """Measures row by row, or shows what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help="all that are not there yet, if none is given")
    parser.add_argument("--csv", type=Path, help="what holds the rows; by default beside this file")
    parser.add_argument("--whole", action="store_true", help="takes nothing from other rows")
    parser.add_argument("--list", action="store_true", help="prints their names")
    parser.add_argument("--table", action="store_true", help="prints them as Markdown")
    parser.add_argument("--plot", nargs="?", type=Path, const=Path("docs/tpu_scaling.png"))
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"no rows {', '.join(sorted(unknown))}: --list prints those that there are")
    path = args.csv or default_csv()
    rows = saved(path)
    there = {found["row"] for found in rows}
    if args.list:
        print("\n".join(f"{name}{' (there)' if name in there else ''}" for name in ROWS))
        return
    if args.table or args.plot:
        if not rows and not args.csv:  # shown by who has another compiler, or none
            rows = saved(max(path.parent.glob(f"{Path(__file__).stem}_{CHIP}_*.csv"), default=path))
        if not rows:
            parser.error(f"{path} holds no rows: measure some first")
        if args.table:
            print(table(rows))
        if args.plot:
            plot(rows, args.plot)
            print(args.plot)
        return
    jax.config.update("jax_platforms", "cpu")  # or it would look for the chips
    jax.config.update("jax_enable_compilation_cache", False)  # it keeps no schedules of kernels
    wanted = [name for name in ROWS if ROWS[name].network != NOT_ASKED_FOR and name not in there]
    for name in args.rows or wanted:
        others = [found for found in saved(path) if found["row"] != name]
        found = found_of(ROWS[name], others, args.whole)
        save(path, found)
        seconds = times(found)
        shown = (
            f"{found['peak_GiB']} GiB, {1e3 * seconds.lower_bound:.2f} to "
            f"{1e3 * seconds.upper_bound:.2f} ms"
            if seconds
            else f"does not fit: {found['why_not']}"
        )
        print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
