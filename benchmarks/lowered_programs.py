"""Compares lowered programs before and after a refactoring.

    python benchmarks/lowered_programs.py /tmp/before
    python benchmarks/lowered_programs.py /tmp/after --base=/tmp/before

Lowers the train steps of GSTO-HRNet-W18-Small-v2 on Cityscapes, W32 on COCO poses and ResNet-50
with PPM, at small sizes, and the eval step of the first, for one CPU device; and where libtpu is
installed the first train step for `v5e:2x2` in bfloat16. Writes each program without names,
locations and the bodies of kernels, as text that `diff` can read. Exits with 1 when a program
differs from the one of the same name in `--base`.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
from jax.sharding import Mesh

from gsto_jax.devices.mesh import batch_sharding, make_mesh, replicated_sharding
from gsto_jax.plan.targets import compile_target
from gsto_jax.segmentation.inference import SegmentationPrograms
from gsto_jax.training.loop import CompiledTrainStep
from gsto_jax.training.task import Task
from modes.run_setup import parse_config

SMALL = {
    "w18s": ("cityscapes_w18s", 2, (128, 256)),
    "pose_w32": ("coco_pose_w32", 2, (128, 96)),
    "ppm": ("cityscapes_r50_ppm", 2, (128, 128)),
}
"""Configuration, batch size and crop by name."""


def main() -> None:
    """Lowers, writes and compares all programs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path, help="folder for the programs' texts")
    parser.add_argument("--base", type=Path, help="folder of an earlier run to compare with")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    args.output.mkdir(parents=True, exist_ok=True)
    changed = False
    for name, lowered in programs():
        text = canonical(lowered.as_text())
        (args.output / f"{name}.txt").write_text(text)
        verdict = ""
        if args.base:
            same = (args.base / f"{name}.txt").read_text() == text
            changed |= not same
            verdict = "same" if same else "DIFFERS"
        print(f"{name:16} {text.count(chr(10)):8} lines  {verdict}", flush=True)
    sys.exit(changed)


def programs() -> Iterator[tuple[str, Any]]:
    """Yields the lowered programs by name."""
    cpu = make_mesh(jax.devices("cpu")[:1])
    for name, (module, batch_size, crop) in SMALL.items():
        config = importlib.import_module(f"configs.{module}").get_config()
        config.train.batch_size, config.data.crop = batch_size, crop
        task, _, _ = parse_config(config)
        yield f"{name}_train", lower_train_step(task, cpu, batch_size, crop)
        if name == "w18s":
            inputs = abstract_inputs(task, cpu, batch_size, crop, "eval")
            variables = task.abstract_state.variables
            yield (
                f"{name}_eval",
                SegmentationPrograms.for_task(task, cpu).eval_step.lower(variables, inputs),
            )
    if find_spec("libtpu"):
        config = importlib.import_module("configs.cityscapes_w18s").get_config()
        config.model.dtype, config.train.batch_size = "bfloat16", 32
        task, data, _ = parse_config(config)
        yield (
            "w18s_v5e_train",
            lower_train_step(task, compile_target("v5e:2x2").mesh, 32, data.crop),
        )


def lower_train_step(task: Task, mesh: Mesh, batch_size: int, crop: tuple[int, int]) -> Any:
    """Returns the train step of a task, lowered for a mesh."""
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_sharding(mesh)),
        task.abstract_state,
    )
    inputs = abstract_inputs(task, mesh, batch_size, crop, "train")
    return CompiledTrainStep(task, mesh).lower(state, inputs)


def abstract_inputs(
    task: Task, mesh: Mesh, batch_size: int, crop: tuple[int, int], step: str
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and shardings of a batch of `step`, "train" or "eval"."""
    shapes = task.abstract_batch(batch_size, crop, step)
    sharding = batch_sharding(mesh)
    return {k: jax.ShapeDtypeStruct(*v, sharding=sharding) for k, v in shapes.items()}


def canonical(text: str) -> str:
    """Returns a program with its functions numbered, and without locations and kernels' bodies."""
    numbers: dict[str, str] = {}
    text = re.sub(r"loc\(.*?\)", "", text)
    text = re.sub(r'jax\.result_info = "[^"]*"', "", text)
    text = re.sub(r'backend_config = "[^"]*"', "backend_config", text)
    return re.sub(r"@[\w.$-]+", lambda name: numbers.setdefault(name[0], f"@f{len(numbers)}"), text)


if __name__ == "__main__":
    main()
