"""What an evaluation costs beside its network: programs, padding, and time.

    python benchmarks/evaluation.py --config=configs/camvid_w18s.py --config.data.root=DIR \
        [--workdir=RUN] [--config.data.eval_size=12] [--looks=own,ms,slide] [--csv=FILE]

Evaluates as `--mode=eval` does, images and tables included, by the configuration's own protocol
and by those of the words `:ms` and `:slide`; without a run, a network of random weights. For each
it prints how many programs compile, and how many of them hold the network; the pixels of the
padded shapes over those of the images; and the share of the wall time outside the network. That is
the
time of an evaluation for which all is compiled, less what the same passes of the network take
alone, from normalized windows that lie on the device to logits. The two are timed in turn, and
medians count. The same share of the process' CPU time says less of waiting, and more of work; it
also holds where other programs keep the machine busy. Writes CSV beside this file, adding to what
is there.
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

LOOKS = flags.DEFINE_list(
    "looks", ["own", "ms", "slide"], "tests, by their words; own: as configured"
)
ROUNDS = flags.DEFINE_integer("rounds", 3, "how often each is timed")
CSV = flags.DEFINE_string("csv", None, "file to add rows to; by default named after the machine")
NETWORK = ("eval_step", "logits")
"""Names of the functions whose programs hold the network."""
COMPILED = "/jax/core/compile/backend_compile_duration"
FIELDS = (
    *("set", "network", "protocol", "images", "sizes", "padded_shapes", "network_programs"),
    *("programs", "compile_s", "padded_over_real", "passes", "pngs", "wall_s", "network_s"),
    *("outside_share", "cpu_s", "network_cpu_s", "outside_cpu_share"),
)


def passes(task: Any, eval_set: Any) -> Counter:
    """How often an evaluation passes windows of each shape (b, h, w) through the network."""
    found: Counter = Counter()
    protocol, figures = eval_set.protocol, task.config.eval.feature_images
    seen = 0
    for batch in eval_set.batches:
        shape = batch["image"].shape[:3]
        first = tuple(batch["size"][0].tolist())
        together = protocol.sizes_in_bucket(eval_set.batches.sizes[shape[1:]], first)
        plain = protocol.is_unscaled_single_pass(together)
        explained = protocol.window != "slide" and not 0 <= figures <= seen
        seen += shape[0]
        if plain or explained:
            found[shape] += 1
        if not plain:
            for look in protocol.scale_plans(together):
                found[shape[0], *look.shape] += look.count * (1 + protocol.flip)
    return found


def padded_over_real(batches: Any) -> float:
    """Pixels of the padded shapes over those of the images on them."""
    padded, real = 0, 0
    for batch in batches:
        count = int(batch["mask"].sum())
        padded += count * batch["image"].shape[1] * batch["image"].shape[2]
        real += int((batch["size"].prod(-1) * batch["mask"]).sum())
    return padded / real


def network_alone(task: Any, variables: Any, mesh: Any, shapes: Counter) -> Any:
    """A function that does these passes and nothing else; all is compiled."""
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


def seconds(run: Any) -> tuple[float, float]:
    """Wall time and CPU time of a function."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(config: Any, folder: str | None, compiled: list[tuple[str, float]]) -> dict[str, Any]:
    """Evaluates by a configuration; a row of the table."""
    from gsto_jax.devices.mesh import make_mesh
    from gsto_jax.runs import workdir
    from gsto_jax.runs.experiment import Experiment, load_for_evaluation
    from gsto_jax.training.task import initial_state
    from modes.run_setup import make_eval_set, parse_config

    task, data, values = parse_config(config)
    mesh = make_mesh()
    eval_set, source = make_eval_set(task, data, values, mesh)
    if folder:
        run = workdir.existing(folder)
        state = load_for_evaluation(run, task, mesh, values, print).state
    else:
        state = initial_state(task, mesh)
    with tempfile.TemporaryDirectory() as scratch:
        place = workdir.Workdir(scratch)
        this = Experiment(task, values, mesh, place, "", eval_set, lambda shown: None)

        def whole() -> None:
            this.evaluate(state)

        compiled.clear()
        whole()
        programs = list(compiled)
        shapes = passes(task, eval_set)
        alone = network_alone(task, state.variables, mesh, shapes)
        compiled.clear()
        times = [(seconds(whole), seconds(alone)) for _ in range(ROUNDS.value)]
        assert not compiled, f"compiled again: {compiled}"
        pngs = sum(1 for _ in Path(scratch).rglob("*.png"))
    middle = statistics.median
    spent = {
        names: (
            middle(outer[n] for outer, _ in times),
            middle(inner[n] for _, inner in times),
            middle(1 - inner[n] / outer[n] for outer, inner in times),
        )
        for n, names in enumerate(
            (
                ("wall_s", "network_s", "outside_share"),
                ("cpu_s", "network_cpu_s", "outside_cpu_share"),
            )
        )
    }
    sizes = {source.size(index) for index in range(len(source))}
    name = Path(data.root).name if data.root else data.source
    return {
        "set": name,
        "network": task.config.model.variant,
        "protocol": str(eval_set.protocol),
        "images": len(source),
        "sizes": len(sizes),
        "padded_shapes": len(eval_set.batches.sizes),
        "network_programs": sum(any(n in name for n in NETWORK) for name, _ in programs),
        "programs": len(programs),
        "padded_over_real": f"{padded_over_real(eval_set.batches):.3f}",
        "passes": sum(shapes.values()),
        "compile_s": f"{sum(seconds for _, seconds in programs):.1f}",
        "pngs": pngs,
    } | {
        name: f"{value:.3f}"
        for names, values in spent.items()
        for name, value in zip(names, values, strict=True)
    }


def main(_: list[str]) -> None:
    """Measures each protocol, prints and writes the result."""
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
    words = {"own": lambda config: None, "ms": base.set_multi_scale, "slide": base.set_slide}
    rows = []
    for look in LOOKS.value:
        config = flags.FLAGS.config.copy_and_resolve_references()
        for word in look.split("+"):
            words[word](config)
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
