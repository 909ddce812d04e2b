"""Fuzz targets of JSON files."""

import base64
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.fuzz_targets.mutation import Target, check_message, mutated_json


def coco_target() -> Target:
    """COCO keypoint annotations, parsed by the dataset builder."""
    from tests.data_pipelines.downloads_trees import coco_files

    files = coco_files()
    name = next(name for name in files if "keypoints_val" in name)
    seed = json.loads(files[name])

    def parse(data: bytes, folder: Path) -> None:
        from data_pipelines.builders import BUILDERS
        from data_pipelines.files.archives import Downloads

        for other, content in (files | {name: data}).items():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_bytes(content)
        with Downloads(folder) as downloads:
            builder = BUILDERS["coco_keypoints"]()
            for items in builder.items(downloads).values():
                for item in items:
                    builder.example(downloads, item, "files")
                builder.count(items)

    return Target(lambda rng: mutated_json(seed, rng), parse)


def run_target() -> Target:
    """JSON files of a run, parsed as for a report."""
    seeds = {
        "config.json": {"name": "a", "train": {"steps": 3}},
        "training.jsonl": {"step": 1, "loss": 0.5},
        "evaluations.jsonl": {"step": 1, "mean_iou": 0.5, "while_training": True},
        "starts.jsonl": {"step": 0, "command": ["x"]},
    }

    def generate(rng: random.Random) -> bytes:
        name = rng.choice(list(seeds))
        text = b"\n".join(mutated_json(seeds[name], rng) for _ in range(rng.randrange(1, 4)))
        return json.dumps([name, base64.b64encode(text).decode()]).encode()

    def parse(data: bytes, folder: Path) -> None:
        from gsto_jax.runs.workdir import Workdir

        name, text = json.loads(data)
        for other, value in seeds.items():
            (folder / other).write_text(json.dumps(value) + "\n")
        (folder / name).write_bytes(base64.b64decode(text))
        workdir = Workdir(folder, read_only=True)
        for records in (
            workdir.read_training(),
            workdir.read_evaluations(),
            workdir.read_starts(),
        ):
            assert all(isinstance(line, dict) for line in records)

    return Target(generate, parse)


def given_target() -> Target:
    """JSON files that commands read: plans, boxes, earlier poses, an export."""
    import modes.predict  # noqa: F401  once, and not in each process
    from configs import quickstart
    from gsto_jax.plan.plan_file import planned_seconds, step_options

    config = quickstart.get_config().to_dict()
    device = SimpleNamespace(device_kind="cpu")
    mesh: Any = SimpleNamespace(size=1, devices=SimpleNamespace(flat=[device]), shape={"data": 1})
    step = {"batch_size": config["train"]["batch_size"], "seconds": {"lower_bound": 0.5}}
    seeds = {
        "plan.json": step_options(config, mesh) | {"steps": {"train": step}},
        "boxes.json": {"a.jpg": [[1, 2, 30, 40.5]], "b.jpg": []},
        "poses.json": {"a.jpg": [{"score": 0.5, "keypoints": [[1.0, 2.0, 0.5]]}]},
        "model.json": {"checkpoint": "run/7", "onnx_size": [4, 6], "files": ["model.onnx"]},
    }

    def generate(rng: random.Random) -> bytes:
        name = rng.choice(list(seeds))
        return json.dumps([name, mutated_json(seeds[name], rng).decode("latin-1")]).encode()

    def parse(data: bytes, folder: Path) -> None:
        from gsto_jax.errors import UserError
        from gsto_jax.predict.files import read_poses
        from gsto_jax.predict.verify import read_description
        from modes.person_boxes import read_boxes

        name, text = json.loads(data)
        path = folder / name
        path.write_bytes(text.encode("latin-1"))
        readers = {
            "plan.json": lambda: planned_seconds(path, config, mesh),
            "boxes.json": lambda: read_boxes(str(path), [], print),
            "poses.json": lambda: read_poses(folder),
            "model.json": lambda: read_description(folder),
        }
        try:
            readers[name]()
        except UserError as error:
            check_message(error, str(folder))
            raise

    return Target(generate, parse)
