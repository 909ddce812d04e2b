"""Train steps on the GPU of this machine with some of XLA's options, compared with the defaults.

    python benchmarks/gpu_flags.py [NETWORK ...] [--options=NAME,NAME] [--step=train] [--batch=8] \
        [--size=512x1024] [--calls=20] [--rounds=5] [--cache=DIR] [--csv=PREFIX]

NETWORKs are those of `benchmarks/gpu_speed.py`, by default gsto-w18s; NAMEs those of `OPTIONS`.
Compiles a program with each set of options, all at the same time, then times them one after the
other. Prints milliseconds and ratios and writes a CSV next to this script after each measurement.
Options that XLA refuses are printed and left out.
"""

import argparse
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from benchmarks.csv_rows import merge_rows
from benchmarks.gpu_speed import KEYS, NETWORKS, Case, lower_jax
from benchmarks.gpu_timing import add_timing_options, device_name, milliseconds, use_cache

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    "concurrent command buffers": {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"},
    "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "convolutions in NHWC": {"xla_gpu_force_conv_nhwc": True},
    "convolutions in NCHW": {"xla_gpu_force_conv_nchw": True},
    "convolution fusion": {"xla_gpu_experimental_enable_conv_fusion": True},
    "runtime fusion": {"xla_gpu_use_runtime_fusion": True},
    "fusion autotuner": {"xla_gpu_experimental_enable_fusion_autotuner": True},
    "no autotuning": {"xla_gpu_autotune_level": 0},
}
"""Sets of XLA's options by name. Command buffers are CUDA graphs."""


def main() -> None:
    """Measures the networks with each set of options, prints and writes the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", default=["gsto-w18s"], help=", ".join(NETWORKS))
    parser.add_argument("--options", default=",".join(OPTIONS), help="some of them, with default")
    parser.add_argument("--step", default="train", help="train or inference")
    parser.add_argument("--batch", type=int, default=8, help="batch size")
    parser.add_argument("--size", default="512x1024", help="image size, h x w")
    add_timing_options(parser)
    args = parser.parse_args()
    use_cache(args.cache)
    height, width = map(int, args.size.split("x"))
    stem = args.csv or Path(__file__).with_suffix("")
    path = f"{stem}_{device_name()}_jax{jax.__version__}.csv"
    for network in args.networks:
        measure(Case(network, args.step, (height, width), args.batch), path, args)


def measure(case: Case, path: str, args: argparse.Namespace) -> None:
    """Times a program with each set of options, prints and writes the rows."""
    lowered, bind = lower_jax(case)
    default_ms = None
    with ThreadPoolExecutor() as pool:
        programs = {
            name: pool.submit(lowered.compile, compiler_options=dict(OPTIONS[name]))
            for name in args.options.split(",")
        }
    for name, future in programs.items():
        try:
            ms = milliseconds(bind(future.result()), jax.block_until_ready, args)
        except (RuntimeError, ValueError) as error:
            print(f"left out: {case.network}, {name}: {str(error)[:300]}", flush=True)
            continue
        if name == "default":
            default_ms = ms
        row = case.columns() | {"runtime": "JAX", "options": name, "ms": f"{ms:.2f}"}
        row["over_default"] = f"{ms / default_ms:.3f}" if default_ms else ""
        merge_rows(path, [row], (*KEYS, "options"))
        print(", ".join(row.values()), flush=True)


if __name__ == "__main__":
    main()
