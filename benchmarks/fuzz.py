"""Feeds the readers of this project what files and command lines may hold, and counts the outcomes.

    python benchmarks/fuzz.py --inputs=10000 [--seed=0] [--only=pth,tiles] [--failures=DIR]
        [--csv=FILE]

Inputs are valid files that were damaged with knowledge of their form (sizes in heads, offsets,
nested values, names), valid files with damaged bytes, and random bytes. An input is read in one of
two ways: it is taken, or it is refused by one message (UserError, DataError; a command line ends
with status 2). Anything else is a failure: another exception, an empty message, a crash, more than
`MEMORY` bytes, or more than `SECONDS` of processor time. What failed is kept, with the reason.

Inputs run in forked processes under limits, so that none can hurt the next. The same seed gives the
same inputs. Ends with status 1 if there was a failure.
"""

import argparse
import base64
import csv
import io
import json
import math
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

MEMORY = 2 * 2**30
"""Bytes of address space that an input may take beyond what the imports take."""
SECONDS = 20
"""Of processor time for one input."""
TOGETHER = 50
"""Inputs that one process reads, unless it dies."""
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
_ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        2**70,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "..",
        "../../x",
        "/etc/passwd",
    ),
    *([], {}, [[]], [None], {"a": {}}, "\0", "é" * 50, [0] * 17, "9" * 50),
)


@dataclass(frozen=True)
class Target:
    """Something that reads.

    Attributes:
      make: draws an input.
      read: reads it; returns, or raises.
    """

    make: Callable[[random.Random], bytes]
    read: Callable[[bytes, Path], None]


def hurt(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Damages bytes without knowing what they are."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(8):
            case 0 | 1 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 2:
                kind = rng.choice(["<I", ">I", "<H", ">H", "<Q", "B"])
                value = rng.choice(_NUMBERS) % 2 ** (8 * struct.calcsize(kind))
                found[at : at + struct.calcsize(kind)] = struct.pack(kind, value)
            case 3:
                del found[at:]
            case 4:
                del found[at : at + rng.randrange(1, 64)]
            case 5:
                found[at:at] = found[at : at + rng.randrange(1, 64)]
            case 6:
                found[at:at] = rng.randbytes(rng.randrange(1, 64))
            case _ if others:
                found[at:] = rng.choice(others)[at:]
    return bytes(found)


def any_bytes(rng: random.Random, starts: Sequence[bytes] = (b"",)) -> bytes:
    """Random bytes, behind what some format begins with."""
    return rng.choice(starts) + rng.randbytes(rng.choice((0, 1, 7, 64, 1000)))


def hurt_json(value: Any, rng: random.Random) -> Any:
    """Puts something odd in a place of nested values, or takes it away."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, below in list(items):
            places.append((node, key))
            if isinstance(below, dict | list):
                walk(below)

    value = json.loads(json.dumps(value))
    walk(value)
    if not places or rng.random() < 0.05:
        return rng.choice(_ODD)
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(_ODD)
    return value


def json_text(value: Any, rng: random.Random) -> bytes:
    """JSON of nested values after some damage; sometimes nested beyond reason."""
    if rng.random() < 0.03:
        return b"[" * 200_000 + b"]" * rng.choice((0, 200_000))
    if rng.random() < 0.02:
        return b'{"a": ' + b"9" * 100_000 + b"}"
    for _ in range(rng.randrange(1, 4)):
        value = hurt_json(value, rng) if isinstance(value, dict | list) else value
    text = json.dumps(value).encode()
    return hurt(text, rng) if rng.random() < 0.2 else text


def draw(rng: random.Random, seeds: Sequence[bytes], smart: Callable[[bytes], bytes]) -> bytes:
    """An input out of valid ones: left as it is, damaged blindly or with knowledge, or random."""
    seed, way = rng.choice(seeds), rng.random()
    if way < 0.02:
        return seed
    if way < 0.07:
        return any_bytes(rng, [seed[:n] for n in (0, 4, 8, 16)])
    if way < 0.5:
        return hurt(seed, rng, seeds)
    return smart(seed)


# Command lines


def config_target() -> Target:
    """Overrides of settings, through the command line to the checked settings."""
    import modes.run_setup  # noqa: F401  here, and not in each process
    from configs import base

    names = list(_flat_names(base.get_config().to_dict()))
    files = sorted(path.stem for path in (ROOT / "configs").glob("*_*.py"))
    values = (
        *(
            "0",
            "1",
            "-1",
            "3",
            "1e999",
            "nan",
            "-inf",
            "inf",
            "True",
            "None",
            "",
            "abc",
            "''",
            "()",
        ),
        *(
            "(1,)",
            "(1,2)",
            "(0,0)",
            "(-1,-1)",
            "(1,2,3,4)",
            "('a','b')",
            "((1,2),(3,4))",
            "(None,)",
        ),
        *(
            "(nan,1)",
            "[1]",
            "{'a':1}",
            "9" * 400,
            "9" * 5000,
            "1.5",
            "(((((((",
            "('a',",
            "é",
            "\0x",
        ),
        *(
            "__import__('os').getpid()",
            "lambda: 0",
            "0x10",
            "1_0",
            "1,2",
            "..",
            "/",
            "b'x'",
            "(1e400,)",
        ),
        *(
            "supervised",
            "ohem",
            "adam",
            "pose",
            "folder",
            "tfds",
            "mini",
            "bfloat16",
            "float64",
            "ppm",
        ),
    )
    words = (
        "baseline",
        "batch=0",
        "batch=7",
        "ms",
        "slide",
        "runlocal",
        "batch=",
        "x",
        "classes=60",
        "",
    )

    def make(rng: random.Random) -> bytes:
        name = rng.choice((*files, "quickstart", "quickstart", "base", "nowhere"))
        chosen = [f"--config=configs/{name}.py{rng.choice(('', '', f':{rng.choice(words)}'))}"]
        for _ in range(rng.randrange(1, 5)):
            field = rng.choice(names)
            if rng.random() < 0.1:
                field = hurt(field.encode(), rng).decode("latin-1")
            chosen.append(f"--config.{field}={rng.choice(values)}")
        return json.dumps(chosen).encode()

    def read(data: bytes, folder: Path) -> None:
        from absl import flags

        from gsto_jax.errors import UserError
        from gsto_jax.segmentation.protocol import protocol_from_config
        from modes import command_line
        from modes.run_setup import parse_config

        sys.argv = ["main.py", *json.loads(data)]
        told, before = io.StringIO(), set(flags.FLAGS)
        try:
            try:
                with redirect_stderr(told):
                    command_line.parse(sys.argv)
            except SystemExit as end:
                message = told.getvalue()
                if end.code != 2 or not message.startswith("error: ") or message.count("\n") > 1:
                    raise AssertionError(f"ended with {end.code} and said {message!r}") from None
                raise UserError(message) from None
            _, _, values = parse_config(flags.FLAGS.config)
            protocol_from_config(values)
        finally:  # as if nothing had been parsed, for the next one
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()

    return Target(make, read)


def _flat_names(values: dict[str, Any], place: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat_names(value, f"{place}{name}.")
        else:
            yield place + name


# Images and labels


def _png(width: int, height: int, depth: int, kind: int, pixels: bytes, more: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def _smart_image(seed: bytes, rng: random.Random) -> bytes:
    if not seed.startswith(b"\x89PNG") or rng.random() < 0.3:
        # Sizes stand in the heads of all formats: damage those first.
        head = hurt(seed[:64], rng)
        return head + seed[64:]
    side = lambda: rng.choice((0, 1, 6, 40, 2**14, 2**16, 2**20, 2**31 - 1, 2**32 - 1))  # noqa: E731
    depth, kind = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 1))
    more = b""
    if rng.random() < 0.3:
        bomb = zlib.compress(bytes(2**24))
        body = rng.choice((b"Comment\0\0", b"ICC\0\0")) + bomb
        name = b"zTXt" if body.startswith(b"C") else b"iCCP"
        more = (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )
    return _png(side(), side(), depth, kind, rng.randbytes(rng.randrange(200)), more)


def image_target() -> Target:
    """Images of many formats, by the readers of datasets and of anyone's images."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    seeds = []
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000"):
        for mode in ("RGB", "L"):
            file = io.BytesIO()
            Image.fromarray(pixels).convert(mode).save(file, kind)
            seeds.append(file.getvalue())
    for image in (
        Image.fromarray(pixels).convert("P"),
        Image.fromarray(pixels).convert("RGBA"),
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 200),
        Image.fromarray(pixels[..., 0].astype(np.float32)),
    ):
        file = io.BytesIO()
        image.save(file, "TIFF" if image.mode == "F" else "PNG")
        seeds.append(file.getvalue())

    def read(data: bytes, folder: Path) -> None:
        from data_pipelines.files.images import (
            decode_image,
            decode_label,
            read_image_header,
            verify_image,
        )
        from gsto_jax.image_files import DecodeOptions
        from gsto_jax.predict import media

        path, rule = folder / "image.png", DecodeOptions()
        path.write_bytes(data)
        refused = []
        for reader in (
            *(
                lambda: decode_image(data, str(path), rule),
                lambda: read_image_header(path, str(path)),
            ),
            *(lambda: verify_image(data, str(path)), lambda: decode_label(data, str(path), rule)),
            *(lambda: media.read_image(path), lambda: media.image_head(path)),
        ):
            try:
                reader()
            except ValueError as error:
                _clear(error, "image.png")
                refused.append(error)
        if refused:
            raise refused[0]

    return Target(lambda rng: draw(rng, seeds, lambda seed: _smart_image(seed, rng)), read)


def label_target() -> Target:
    """Labels of a folder of images, ids out of range among them."""
    import cv2
    import numpy as np

    image = cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()
    ids = np.array([[0, 1, 2, 255, 1, 0]] * 4, np.uint8)
    seeds = [cv2.imencode(".png", x)[1].tobytes() for x in (ids, ids.astype(np.uint16) * 100)]
    seeds.append(_png(6, 4, 4, 0, b"".join(b"\0" + bytes([0x12, 0x01, 0x20]) for _ in range(4))))

    def smart(seed: bytes, rng: random.Random) -> bytes:
        depth = rng.choice((1, 2, 4, 8, 16))
        width, height = rng.choice((6, 6, 6, 5)), rng.choice((4, 4, 4, 3))
        rows = [b"\0" + rng.randbytes(-(-width * depth // 8)) for _ in range(height)]
        return _png(width, height, depth, rng.choice((0, 0, 3)), b"".join(rows))

    def read(data: bytes, folder: Path) -> None:
        from data_pipelines import DataConfig, make_source

        for name, content in (("images/val/a.png", image), ("labels/val/a.png", data)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        config = DataConfig(
            source="folder",
            root=str(folder),
            images="images/{split}",
            labels="labels/{split}",
            image_suffix=".png",
            label_suffix=".png",
            classes=("a", "b", "c"),
            palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
            crop=(4, 6),
        )
        source = make_source(config, "val")
        source.inspect(0)
        try:
            label = source[0]["label"]
        except ValueError as error:
            _clear(error, "a.png")
            raise
        assert label.dtype == np.uint8 and set(np.unique(label)) <= {0, 1, 2, 255}

    return Target(lambda rng: draw(rng, seeds, lambda seed: smart(seed, rng)), read)


# JSON


def coco_target() -> Target:
    """Annotations of COCO keypoints, by the builder."""
    from tests.data_pipelines.downloads_trees import coco_files

    files = coco_files()
    name = next(name for name in files if "keypoints_val" in name)
    seed = json.loads(files[name])

    def read(data: bytes, folder: Path) -> None:
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

    return Target(lambda rng: json_text(seed, rng), read)


def run_target() -> Target:
    """Files of a run's folder, as a report reads them."""
    seeds = {
        "config.json": {"name": "a", "train": {"steps": 3}},
        "training.jsonl": {"step": 1, "loss": 0.5},
        "evaluations.jsonl": {"step": 1, "mean_iou": 0.5, "while_training": True},
        "starts.jsonl": {"step": 0, "command": ["x"]},
    }

    def make(rng: random.Random) -> bytes:
        name = rng.choice(list(seeds))
        text = b"\n".join(json_text(seeds[name], rng) for _ in range(rng.randrange(1, 4)))
        return json.dumps([name, base64.b64encode(text).decode()]).encode()

    def read(data: bytes, folder: Path) -> None:
        from gsto_jax.runs.workdir import Workdir

        name, text = json.loads(data)
        for other, value in seeds.items():
            (folder / other).write_text(json.dumps(value) + "\n")
        (folder / name).write_bytes(base64.b64decode(text))
        workdir = Workdir(folder, read_only=True)
        for found in (workdir.training(), workdir.evaluations(), workdir.starts()):
            assert all(isinstance(line, dict) for line in found)

    return Target(make, read)


def given_target() -> Target:
    """Other JSON that a command names, or finds: plans, boxes, earlier poses, an export."""
    import modes.predict  # noqa: F401  here, and not in each process
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

    def make(rng: random.Random) -> bytes:
        name = rng.choice(list(seeds))
        return json.dumps([name, json_text(seeds[name], rng).decode("latin-1")]).encode()

    def read(data: bytes, folder: Path) -> None:
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
            _clear(error, str(folder))
            raise

    return Target(make, read)


# Weights


def _state() -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "bn.num_batches_tracked": np.array(7),
        "half": rng.standard_normal((2, 5)).astype(np.float16),
    }


def _weights(suffix: str, smart: Callable[[bytes, random.Random], bytes]) -> Target:
    from gsto_jax.weights.files import WEIGHT_WRITERS

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        WEIGHT_WRITERS[suffix](path, _state())
        seed = path.read_bytes()

    def read(data: bytes, folder: Path) -> None:
        from gsto_jax.weights.files import read_state_dict

        path = folder / f"weights{suffix}"
        path.write_bytes(data)
        try:
            state = read_state_dict(path)
        except ValueError as error:
            _clear(error, path.name)
            raise
        for value in state.values():
            value.sum()

    return Target(lambda rng: draw(rng, [seed], lambda seed: smart(seed, rng)), read)


def safetensors_target() -> Target:
    """Files of safetensors: heads with other shapes, dtypes and offsets."""

    def smart(seed: bytes, rng: random.Random) -> bytes:
        (length,) = struct.unpack_from("<Q", seed)
        text = json_text(json.loads(seed[8 : 8 + length]), rng)
        said = rng.choice((len(text),) * 8 + (0, 2**40, 2**64 - 1, len(text) + 1, len(text) // 2))
        return struct.pack("<Q", said) + text + seed[8 + length :]

    return _weights(".safetensors", smart)


def torch_target() -> Target:
    """Files of `torch.save`: other pickles, other members of the zip, the format before 1.6."""

    def smart(seed: bytes, rng: random.Random) -> bytes:
        archive = zipfile.ZipFile(io.BytesIO(seed))
        files = {name: archive.read(name) for name in archive.namelist()}
        key = next(name for name in files if name.endswith("data.pkl"))
        if rng.random() < 0.3:
            return _before_zip(files, key, rng)
        match rng.randrange(6):
            case 0 | 1 | 2:
                files[key] = hurt(files[key], rng)
            case 3:
                body = b"".join(rng.choice(_OPCODES) for _ in range(rng.randrange(1, 40)))
                files[key] = b"\x80\x02" + body + b"."
            case 4:
                files[rng.choice(list(files))] = rng.randbytes(rng.randrange(50))
            case _:
                files["archive/../../escape"] = b"x"
        out = io.BytesIO()
        packing = rng.choice((zipfile.ZIP_STORED,) * 5 + (zipfile.ZIP_DEFLATED,))
        with zipfile.ZipFile(out, "w", packing) as written:
            for name, content in files.items():
                written.writestr(name, content)
        data = out.getvalue()
        return hurt(data, rng) if rng.random() < 0.1 else data

    return _weights(".pth", smart)


def _before_zip(files: Mapping[str, bytes], pickled: str, rng: random.Random) -> bytes:
    """The same in the format before PyTorch 1.6, with one part hurt, or all of it."""
    data = {name.rpartition("/")[2]: files[name] for name in files if "/data/" in name}
    parts = [
        *(pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)),
        pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2),
        files[pickled],
        pickle.dumps(list(data), 2),
        *(
            struct.pack("<q", array.size) + numbers
            for array, numbers in zip(_state().values(), data.values(), strict=True)
        ),
    ]
    n = rng.randrange(len(parts) + 1)
    if n == len(parts):
        return hurt(b"".join(parts), rng)
    parts[n] = hurt(parts[n], rng)
    return b"".join(parts)


_OPCODES = (
    *(
        b"(",
        b")",
        b"}",
        b"]",
        b"N",
        b"0",
        b"2",
        b"t",
        b"u",
        b"s",
        b"a",
        b"e",
        b"R",
        b"b",
        b"Q",
        b"\x85",
    ),
    *(b"\x86", b"\x87", b"q\x00", b"h\x00", b"h\x09", b"K\x05", b"J\xff\xff\xff\xff", b"M\x10\x27"),
    *(
        b"X\x01\x00\x00\x00a",
        b"X\xff\xff\xff\x7f",
        b"cos\nsystem\n",
        b"ccollections\nOrderedDict\n",
    ),
    *(
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
        b"\x8a\xff" + b"\x7f" * 255,
    ),
    *(
        b"\x94",
        b"\x93",
        b"cbuiltins\neval\n",
        b"G" + bytes(8),
        b"i",
        b"o",
        b"\x81",
        b"P1\n",
        b"I1\n",
    ),
)


# Prepared data


def tiles_target() -> Target:
    """Images in tiles."""
    import numpy as np

    from data_pipelines.files.tiles import encode_tiles

    pixels = np.random.default_rng(0).integers(0, 9, (40, 50, 3), np.uint8)
    seeds = [encode_tiles(pixels, 16), encode_tiles(pixels[..., 0], 16)]

    def smart(seed: bytes, rng: random.Random) -> bytes:
        import zstandard

        side = lambda: rng.choice((0, 1, 16, 40, 2**14, 2**16, 2**31, 2**32 - 1))  # noqa: E731
        if rng.random() < 0.5:
            head = struct.pack("<4sIIHH", b"GTL1", side(), side(), side() % 2**16, side() % 2**16)
            return head + seed[16:]
        # One tile, of another size than the head says.
        packed = zstandard.compress(bytes(rng.choice((0, 767, 768, 769, 2**27))))
        if rng.random() < 0.3:
            packed = hurt(packed, rng)
        head = struct.pack("<4sIIHH", b"GTL1", 16, 16, 3, 16)
        return head + struct.pack("<I", len(packed)) + packed

    def read(data: bytes, folder: Path) -> None:
        from data_pipelines.files.tiles import Tiles

        try:
            tiles = Tiles(data, "the image x")
            tiles[2:9, 3:30]
            np.asarray(tiles)
        except ValueError as error:
            _clear(error, "the image x")
            raise

    return Target(lambda rng: draw(rng, seeds, lambda seed: smart(seed, rng)), read)


def prepared_target(name: str, storage: str) -> Target:
    """A prepared dataset with one damaged file, by its source."""
    from data_pipelines import CITYSCAPES, COCO_KEYPOINTS, DataConfig
    from data_pipelines.builders import BUILDERS, prepare
    from tests.data_pipelines import downloads_trees as trees

    with tempfile.TemporaryDirectory() as made:
        tree = {"cityscapes": trees.cityscapes_files, "coco_keypoints": trees.coco_files}[name]()
        source = trees.write_tree(Path(made) / "downloads", tree)
        final = prepare(BUILDERS[name](), source, Path(made) / "sets", storage, partial=True)
        files = {path.name: path.read_bytes() for path in final.iterdir() if path.is_file()}
    read_ones = [
        key for key in files if "plan" not in key and "train" not in key and key != ".lock"
    ]

    def make(rng: random.Random) -> bytes:
        key = rng.choice(read_ones)
        data = files[key]
        if key.endswith(".json") and rng.random() < 0.7:
            data = json_text(json.loads(data), rng)
        elif key.startswith("names") and rng.random() < 0.5:
            data = (
                b"\n".join(rng.choice((b"a", b"../x", b"/x", b"", b"\xff")) for _ in range(3))
                + b"\n"
            )
        else:
            data = hurt(data, rng) if rng.random() < 0.9 else any_bytes(rng)
        return json.dumps([key, base64.b64encode(data).decode()]).encode()

    def read(data: bytes, folder: Path) -> None:
        import numpy as np

        from data_pipelines import make_source

        key, text = json.loads(data)
        place = folder / name / "1.0.0"
        place.mkdir(parents=True)
        for other, content in (files | {key: base64.b64decode(text)}).items():
            (place / other).write_bytes(content)
        fields: dict[str, Any] = {
            "source": "tfds",
            "root": str(folder),
            "name": name,
            "crop": (24, 32),
        }
        if name == "coco_keypoints":
            joints = {"names": COCO_KEYPOINTS.names, "sigmas": COCO_KEYPOINTS.sigmas}
            fields |= {"classes": (), "palette": (), "keypoints": joints}
        else:
            fields |= {"classes": CITYSCAPES.names, "palette": CITYSCAPES.palette}
            fields |= {"id_map": CITYSCAPES.id_map}
        source = make_source(DataConfig(**fields), "val")
        for index in range(len(source)):
            assert ".." not in source.name(index).split("/") and not source.name(index).startswith(
                "/"
            )
            source.inspect(index)
            source.size(index)
            for value in source[index].values():
                np.asarray(value)

    return Target(make, read)


# Downloads


def archive_target() -> Target:
    """Zips and tars with damaged heads, paths that lead out of them, links, and bombs."""

    def packed(rng: random.Random) -> tuple[str, bytes]:
        names = [
            "a.png",
            "b/c.txt",
            "../x",
            "/etc/x",
            "b/../../x",
            "..\\x",
            "inner.zip",
            "inner.tar.gz",
        ]
        chosen = rng.sample(names, rng.randrange(1, 4)) if rng.random() < 0.5 else names[:2]
        bomb = rng.random() < 0.05
        content = lambda: bytes(2**27) if bomb else rng.randbytes(30)  # noqa: E731
        out = io.BytesIO()
        kind = rng.choice((".zip", ".tar", ".tar.gz"))
        if kind == ".zip":
            deflate = zipfile.ZIP_DEFLATED
            packing = rng.choice((*[deflate] * 6, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2))
            with zipfile.ZipFile(out, "w", packing, compresslevel=1) as archive:
                for name in chosen:
                    archive.writestr(name, content())
        else:
            with tarfile.open(
                fileobj=out,
                mode="w:gz" if kind == ".tar.gz" else "w",
                **({"compresslevel": 1} if kind == ".tar.gz" else {}),
            ) as tar:
                for name in chosen[: 1 if bomb else None]:
                    info, data = tarfile.TarInfo(name), content()
                    info.size = len(data)
                    if rng.random() < 0.2:
                        info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
                    tar.addfile(info, io.BytesIO(data))
        return kind, out.getvalue()

    def make(rng: random.Random) -> bytes:
        kind, data = packed(rng)
        if rng.random() < 0.6:
            head = rng.random() < 0.5 and kind == ".tar"
            data = hurt(data[:512], rng) + data[512:] if head else hurt(data, rng)
        return json.dumps([kind, base64.b64encode(zlib.compress(data, 1)).decode()]).encode()

    def read(data: bytes, folder: Path) -> None:
        from data_pipelines import DataError
        from data_pipelines.files.archives import Downloads

        kind, text = json.loads(data)
        inside = folder / "downloads"
        inside.mkdir()
        (inside / f"archive{kind}").write_bytes(zlib.decompress(base64.b64decode(text)))
        with Downloads(inside, folder) as downloads:
            for name in downloads.names:
                assert not name.startswith("/") and ".." not in name.split("/"), name
                downloads.read(name)
            if downloads.broken:
                raise DataError(downloads.broken[0])

    return Target(make, read)


def mat_target() -> Target:
    """Labels of MATLAB."""
    import numpy as np
    import scipy.io

    from tests.data_pipelines.downloads_trees import mat

    ids = np.arange(24, dtype=np.uint16).reshape(4, 6)
    plain = io.BytesIO()
    scipy.io.savemat(plain, {"LabelMap": ids, "other": [[1, 2], "x"]})
    seeds, bomb = [mat(ids), plain.getvalue()], zlib.compress(bytes(2**28), 1)

    def smart(seed: bytes, rng: random.Random) -> bytes:
        part = zlib.compress(hurt(plain.getvalue()[128:], rng), 1)
        if rng.random() < 0.05:
            part = bomb
        return plain.getvalue()[:128] + struct.pack("<II", 15, len(part)) + part

    def read(data: bytes, folder: Path) -> None:
        from data_pipelines.files.archives import read_mat

        try:
            np.asarray(read_mat(data, "LabelMap"))
        except ValueError as error:
            from data_pipelines import DataError

            raise DataError(str(error)) from None  # as the builder of Pascal Context does

    return Target(lambda rng: draw(rng, seeds, lambda seed: smart(seed, rng)), read)


def targets() -> dict[str, tuple[int, Callable[[], Target]]]:
    """How often each is drawn, and what makes it, by name; those that import most come last."""
    return {
        "config": (3, config_target),
        "image": (3, image_target),
        "label": (2, label_target),
        "safetensors": (3, safetensors_target),
        "pth": (3, torch_target),
        "tiles": (2, tiles_target),
        "run_json": (1, run_target),
        "given_json": (1, given_target),
        "coco_json": (2, coco_target),
        "mat": (1, mat_target),
        "archive": (1, archive_target),
        "records": (2, lambda: prepared_target("cityscapes", "files")),
        "records_in_tiles": (2, lambda: prepared_target("cityscapes", "tiles")),
        "persons": (2, lambda: prepared_target("coco_keypoints", "files")),
    }


# Running them


def _clear(error: BaseException, name: str) -> None:
    """Complains of a message that does not name the file, or of an error that is none of ours."""
    from data_pipelines import DataError
    from gsto_jax.errors import UserError

    if not isinstance(error, UserError | DataError):
        raise AssertionError(f"an error of another kind: {error!r}") from error
    if name not in str(error) or len(str(error)) > 2000:
        raise AssertionError(f"the message is unclear: {str(error)[:3000]}") from error


def outcome(target: Target, data: bytes) -> tuple[str, str]:
    """What a reader makes of an input: "taken", "refused" or "failed", and why."""
    from data_pipelines import DataError
    from gsto_jax.errors import UserError

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            target.read(data, Path(folder))
        except (UserError, DataError) as error:
            told = str(error).strip()
            return ("refused", told[:200]) if told else ("failed", "an empty message")
        except BaseException:
            return "failed", traceback.format_exc()
    return "taken", ""


def _child(target: Target, inputs: Sequence[bytes], write: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with os.fdopen(write, "w") as answer:
        for data in inputs:
            used = resource.getrusage(resource.RUSAGE_SELF)
            end = int(used.ru_utime + used.ru_stime) + SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
            answer.write(json.dumps(outcome(target, data)) + "\n")
            answer.flush()


def outcomes(target: Target, inputs: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """The outcome of each input, in forked processes; one that dies has failed."""
    import data_pipelines  # noqa: F401
    import gsto_jax.errors  # noqa: F401  once, and not in each process

    at = 0
    while at < len(inputs):
        part = inputs[at : at + TOGETHER]
        read, write = os.pipe()
        if not (process := os.fork()):
            os.close(read)
            try:
                _child(target, part, write)
            finally:
                os._exit(0)
        os.close(write)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(process, signal.SIGKILL))
        signal.alarm(30 * SECONDS)
        with os.fdopen(read) as answer:
            told = [json.loads(line) for line in answer if line.endswith("\n")]
        signal.alarm(0)
        _, status = os.waitpid(process, 0)
        yield from (tuple(one) for one in told)  # type: ignore[misc]
        at += len(told)
        if len(told) < len(part):
            yield "failed", f"the process ended with {os.waitstatus_to_exitcode(status)}"
            at += 1


def main(argv: Sequence[str] | None = None) -> int:
    """Draws, feeds, counts. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--only", default="", help="names of targets, with commas between")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="kept there")
    parser.add_argument("--csv", type=Path, help="where to write the counts")
    args = parser.parse_args(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import logging

    logging.disable(logging.CRITICAL)
    known = targets()
    chosen = args.only.split(",") if args.only else list(known)
    shares = sum(known[name][0] for name in chosen)
    rows, failed, began = [], 0, time.monotonic()
    for name in chosen:
        share, make = known[name]
        target, count = make(), math.ceil(args.inputs * share / shares)
        inputs = [target.make(random.Random(f"{args.seed} {name} {n}")) for n in range(count)]
        counts: Counter[str] = Counter()
        for n, (kind, reason) in enumerate(outcomes(target, inputs)):
            counts[kind] += 1
            if kind == "failed":
                failed += 1
                args.failures.mkdir(parents=True, exist_ok=True)
                place = args.failures / f"{name}-{args.seed}-{n}"
                place.with_suffix(".bin").write_bytes(inputs[n])
                place.with_suffix(".txt").write_text(reason)
        rows.append({"target": name, "inputs": count, **{k: counts[k] for k in KINDS}})
        print(rows[-1], f"{time.monotonic() - began:.0f} s", flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, ("target", "inputs", *KINDS), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    total = {k: sum(row[k] for row in rows) for k in ("inputs", *KINDS)}
    print(f"seed {args.seed}: {total}" + (f"; see {args.failures}" if failed else ""))
    return 1 if failed else 0


KINDS = ("taken", "refused", "failed")

if __name__ == "__main__":
    sys.exit(main())
