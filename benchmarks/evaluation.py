"""Overhead of an evaluation: compiled programs, padding, and time outside the network.

    python benchmarks/evaluation.py --config=configs/camvid_w18s.py --config.data.root=DIR \
        [--workdir=RUN] [--config.data.eval_size=12] [--protocols=config,ms,slide] [--csv=FILE]

Evaluates as `--mode=eval` does, with images and tables, by the protocol of the config and those of
the arguments `:ms` and `:slide`; without a run, with random weights. For each protocol it prints
the number of compiled programs, and of those with the network; the ratio of padded to real pixels;
and the fraction of wall time outside the network: the time of a compiled evaluation minus that of
the same forward passes alone, from normalized windows on the device to logits. The two are timed in
turn, and medians are reported. The same fraction of the CPU time includes less waiting, and also
holds on a busy machine. Appends to a CSV next to this script.
"""

import csv
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from absl import app, flags

from configs import base
from modes import command_line

PROTOCOLS = flags.DEFINE_list(
    "protocols", ["config", "ms", "slide"], "protocols by config argument; config: as configured"
)
ROUNDS = flags.DEFINE_integer("rounds", 3, "number of timings of each")
CSV = flags.DEFINE_string("csv", None, "file to append to; by default named after the machine")
NETWORK = "traced"
"""Name of jitted functions that contain the network: the wrapper `mesh.on_mesh`."""
COMPILED = "/jax/core/compile/backend_compile_duration"
FIELDS = (
    *("dataset", "network", "protocol", "images", "image_sizes", "padded_shapes"),
    *("network_programs", "programs", "compile_seconds", "padded_pixel_ratio", "forward_passes"),
    *("pngs", "wall_seconds", "network_seconds", "non_network_fraction", "cpu_seconds"),
    *("network_cpu_seconds", "non_network_cpu_fraction"),
)


def count_passes(task: Any, eval_set: Any) -> Counter:
    """Counts the forward passes of an evaluation by input shape (b, h, w)."""
    passes: Counter = Counter()
    protocol, figures = eval_set.protocol, task.config.eval.feature_images
    images = 0
    for batch in eval_set.batches:
        shape = batch["image"].shape[:3]
        first = tuple(batch["size"][0].tolist())
        together = protocol.sizes_in_bucket(eval_set.batches.sizes[shape[1:]], first)
        plain = protocol.is_unscaled_single_pass(together)
        explained = protocol.window != "slide" and not 0 <= figures <= images
        images += shape[0]
        if plain or explained:
            passes[shape] += 1
        if not plain:
            for windows in protocol.scale_plans(together):
                passes[shape[0], *windows.shape] += windows.count * (1 + protocol.flip)
    return passes


def padded_pixel_ratio(batches: Any) -> float:
    """Returns the pixels of the padded shapes over those of the images."""
    padded, real = 0, 0
    for batch in batches:
        count = int(batch["mask"].sum())
        padded += count * batch["image"].shape[1] * batch["image"].shape[2]
        real += int((batch["size"].prod(-1) * batch["mask"]).sum())
    return padded / real


def network_only(task: Any, variables: Any, mesh: Any, shapes: Counter) -> Any:
    """Returns a compiled function that runs only these forward passes."""
    import jax
    import numpy as np

    from gsto_jax.devices.mesh import compiler_options, put_batch
    from gsto_jax.segmentation.task import logits

    network = jax.jit(partial(logits, task), compiler_options=compiler_options(mesh))
    rng = np.random.default_rng(0)
    windows = {
        shape: put_batch({"x": rng.normal(size=(*shape, 3)).astype(np.float32)}, mesh)["x"]
        for shape in shapes
    }
    for window in windows.values():
        jax.block_until_ready(network(variables, window))

    def run() -> None:
        for shape, count in shapes.items():
            for _ in range(count):
                result = network(variables, windows[shape])
            jax.block_until_ready(result)

    return run


def time_call(run: Any) -> tuple[float, float]:
    """Returns the wall time and CPU time of a function in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(config: Any, folder: str | None, compiled: list[tuple[str, float]]) -> dict[str, Any]:
    """Evaluates with a config; returns a row of the table."""
    from gsto_jax.devices.mesh import make_mesh
    from gsto_jax.runs import workdir
    from gsto_jax.runs.experiment import Experiment, load_for_evaluation
    from gsto_jax.training.task import initial_state
    from modes.run_setup import make_eval_set, parse_config

    task, data, values = parse_config(config)
    mesh = make_mesh()
    eval_set, source = make_eval_set(task, data, values, mesh)
    if folder:
        run = workdir.open_workdir(folder)
        state = load_for_evaluation(run, task, mesh, values, print).state
    else:
        state = initial_state(task, mesh)
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment(
            task=task,
            config=values,
            mesh=mesh,
            workdir=workdir.Workdir(scratch),
            train_set="",
            eval_set=eval_set,
            log=lambda block: None,
        )

        def evaluate() -> None:
            experiment.evaluate(state)

        compiled.clear()
        evaluate()
        programs = list(compiled)
        passes = count_passes(task, eval_set)
        run_network = network_only(task, state.variables, mesh, passes)
        compiled.clear()
        times = [(time_call(evaluate), time_call(run_network)) for _ in range(ROUNDS.value)]
        assert not compiled, f"compiled again: {compiled}"
        pngs = sum(1 for _ in Path(scratch).rglob("*.png"))
    return {
        "dataset": Path(data.root).name if data.root else data.source,
        "network": task.config.model.variant,
        "protocol": str(eval_set.protocol),
        "images": len(source),
        "image_sizes": len({source.size(index) for index in range(len(source))}),
        "padded_shapes": len(eval_set.batches.sizes),
        "network_programs": sum(NETWORK in name for name, _ in programs),
        "programs": len(programs),
        "padded_pixel_ratio": f"{padded_pixel_ratio(eval_set.batches):.3f}",
        "forward_passes": sum(passes.values()),
        "compile_seconds": f"{sum(seconds for _, seconds in programs):.1f}",
        "pngs": pngs,
        **_time_columns(times),
    }


def _time_columns(times: list[Any]) -> dict[str, str]:
    """Returns the medians of the times of evaluation and network."""
    columns = {}
    for n, (kind, fraction) in enumerate((("wall", "fraction"), ("cpu", "cpu_fraction"))):
        prefix = "" if kind == "wall" else "cpu_"
        values = {
            f"{kind}_seconds": [evaluation[n] for evaluation, _ in times],
            f"network_{prefix}seconds": [network[n] for _, network in times],
            f"non_network_{fraction}": [1 - network[n] / outer[n] for outer, network in times],
        }
        columns |= {name: f"{statistics.median(x):.3f}" for name, x in values.items()}
    return columns


def main(_: list[str]) -> None:
    """Measures each protocol, prints and writes the rows."""
    from gsto_jax.devices.host_memory import keep_freed_memory

    keep_freed_memory()
    import cv2
    import jax

    jax.config.update("jax_compilation_cache_dir", None)
    compiled: list[tuple[str, float]] = []

    def listen(event: str, seconds: float, **more: Any) -> None:
        if event == COMPILED:
            compiled.append((str(more.get("fun_name")), seconds))

    jax.monitoring.register_event_duration_secs_listener(listen)
    setters = {"config": lambda config: None, "ms": base.set_multi_scale, "slide": base.set_slide}
    rows = []
    for protocol in PROTOCOLS.value:
        config = flags.FLAGS.config.copy_and_resolve_references()
        for name in protocol.split("+"):
            setters[name](config)
        rows.append(measure(config, flags.FLAGS.workdir, compiled))
        print("\n".join(f"  {k:17s} {v}" for k, v in rows[-1].items()), flush=True)
        print()
    kind = jax.devices()[0].device_kind.replace(" ", "-")
    machine = f"{platform.machine()}_{os.cpu_count()}cores" if kind == "cpu" else kind
    stem = f"evaluation_{machine}_jax{jax.__version__}_opencv{cv2.__version__}"
    path = Path(CSV.value) if CSV.value else Path(__file__).parent / f"{stem}.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
