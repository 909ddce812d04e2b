"""A checkpoint as files that run without this package: `model.jax`, `model.onnx`, `model.json`.

The programs take images `b h w 3` uint8 RGB, of any number and size, and return a dict (in ONNX
two outputs of the same names): "labels" `b h w` uint8, and "logits" `b h' w' k` float32 of the
image as the network saw it. All that `--mode=predict` does between decoding an image and its labels
is inside: scaling to `long_side` and back, padding, normalization (`gsto_jax.predict.one_pass`).
Only the scales, the mirror image and the windows of a test protocol are not: see
`one_pass_predictor`.
"""

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import symbolic_shape
from jax.extend.core import Jaxpr, Literal

from gsto_jax import reporting
from gsto_jax.devices.mesh import make_mesh
from gsto_jax.errors import UserError
from gsto_jax.files import is_full, parse_json, to_json
from gsto_jax.predict.export_description import PLATFORMS, describe_export
from gsto_jax.predict.one_pass import one_pass_of, predict_once
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.tasks import task_of
from gsto_jax.segmentation.protocol import Size

FORMATS = ("jax", "onnx")
EQUAL_LABELS = {"float32": 0.999, "bfloat16": 0.95}
LOGITS_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.1}
"""By dtype of the network: what `verify` lets pass, see `Check`.

With free sizes the weights of a resampling are computed at run time, in float32: where sides do not
halve exactly, a network that was hardly trained makes 1e-4 of their rounding.
"""
OTHERS = ("weights.safetensors", "weights.pth")
"""What else `--mode=export` writes beside the programs, of the same checkpoint."""
_OPSET = 21

Program = Callable[[Array], dict[str, Array]]


@dataclass(frozen=True)
class Check:
    """How an artefact compares with its checkpoint on one batch.

    Attributes:
      file: its name.
      shape: (b, h, w) of the batch.
      equal: share of labels that are those of `Predictor`.
      difference: largest difference of the logits over the largest logit.
    """

    file: str
    shape: tuple[int, int, int]
    equal: float
    difference: float

    def __str__(self) -> str:
        """In words, for people."""
        b, h, w = self.shape
        return (
            f"{self.file}: {b} of {h}x{w}, {self.equal:.4%} of the labels equal, logits within "
            f"{self.difference:.1e} of the largest"
        )


def export(
    predictor: Predictor,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    size: Size | None = None,
) -> list[Path]:
    """Writes a checkpoint as programs that need nothing of this package.

    Everything is made before anything is written; each file appears whole or not at all, and
    `model.json`, which describes them, last. A former export in the folder is replaced, all of it.

    Args:
      predictor: of the checkpoint.
      folder: made if need be.
      formats: any of `FORMATS`.
      size: (h, w) that `model.onnx` takes, for runtimes that want it fixed; None: any. The number
        of pictures is free, and `model.jax` takes any size.

    Returns:
      The files.

    Raises:
      UserError: an unknown format, packages that are missing, a network that a format cannot hold,
        or a folder that cannot be written.
    """
    check_exportable(predictor, formats, size)
    run, contents = program(predictor), {}
    if "jax" in formats:
        spec = jax.ShapeDtypeStruct(symbolic_shape("b, h, w, 3"), jnp.uint8)
        with reporting.stage("exporting model.jax", announce=True):
            exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(spec)
            contents["model.jax"] = bytes(exported.serialize())
    if "onnx" in formats:
        with reporting.stage("exporting model.onnx", announce=True):
            contents["model.onnx"] = _onnx(predictor, size)
    described = to_json(describe_export(predictor, contents, size), indent=2) + "\n"
    contents["model.json"] = described.encode()
    return _write(Path(folder).expanduser(), contents)


def check_exportable(
    predictor: Predictor, formats: Sequence[str] = FORMATS, size: Size | None = None
) -> None:
    """Raises UserError where `export` would: before anything is traced."""
    if not formats or not set(formats) <= set(FORMATS):
        raise UserError(
            f"an export has no format {', '.join(formats) or '(none)'}: give {', '.join(FORMATS)}, "
            "or for the weights alone safetensors, pth"
        )
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise UserError(f"the size of an export is {size}: give height and width in pixels")
    dtype = predictor.task.config.model.dtype
    if predictor.task.num_classes > 256:
        raise UserError(
            f"an export holds labels in 8 bits, and {predictor.path} has "
            f"{predictor.task.num_classes} classes"
        )
    if dtype not in EQUAL_LABELS:
        raise UserError(f"{predictor.path} computes in {dtype}: export float32 or bfloat16")
    if "onnx" not in formats:
        return
    if predictor.task.config.model.is_context_net:
        raise UserError(
            f"{predictor.path} has a ResNet, whose pooling the ONNX runtime does not take: export "
            "the format jax alone"
        )
    if dtype != "float32":
        raise UserError(
            f"{predictor.path} computes in {dtype}, which ONNX runtimes do not on a CPU: export "
            "the format jax alone"
        )
    missing = [name for name in ("jax2onnx", "onnx", "onnxruntime") if not find_spec(name)]
    if missing:
        raise UserError(
            f"the format onnx needs packages that are missing ({', '.join(missing)}): pip "
            "install '.[onnx]' in a clone, or export the format jax alone"
        )


def program(predictor: Predictor) -> Program:
    """What is exported: from pictures `b h w 3` uint8 to "labels" and "logits"."""
    task, variables = predictor.task, jax.device_get(predictor.variables)
    protocol, long_side = one_pass_of(predictor.protocol), predictor.long_side
    return lambda images: predict_once(task, variables, protocol, long_side, images)


def one_pass_predictor(predictor: Predictor) -> Predictor:
    """Returns the predictor whose labels an export gives."""
    return replace(predictor, protocol=one_pass_of(predictor.protocol))


def verify(
    predictor: Predictor, folder: str | Path, batches: Sequence[np.ndarray] | None = None
) -> list[Check]:
    """Compares an export with its checkpoint: each artefact in a fresh process, on the CPU.

    That process imports NumPy, and JAX or onnxruntime, nothing of this package. The checkpoint
    should be on a CPU too: accelerators compute convolutions less exactly.

    Args:
      predictor: of the checkpoint.
      folder: of the export.
      batches: images `b h w 3` uint8; None: random ones, of odd sizes and above the limit too.

    Raises:
      UserError: there is no export, it is of another checkpoint, a process failed, or an artefact
        differs by more than `EQUAL_LABELS` and `LOGITS_DIFFERENCE` allow.
    """
    folder = Path(folder).expanduser()
    source, names, fixed = read_description(folder)
    if source != str(predictor.path):
        raise UserError(f"{folder} is an export of {source}: export it anew")
    if batches is None:
        batches = random_batches(shapes_to_check(predictor.long_side))
    with reporting.stage("predicting random images", len(batches)) as advance:
        expected = []
        for batch in batches:
            expected.append(_expected(predictor, batch))
            advance(1)
    checks = []
    for name in names:
        chosen, wanted = batches, expected
        if name == "model.onnx" and fixed:
            chosen = random_batches([(2, *fixed)])
            wanted = [_expected(predictor, batch) for batch in chosen]
        with reporting.stage(f"running {name} in a process of its own", announce=True):
            results = _fresh(folder / name, chosen)
        for batch, ours, theirs in zip(chosen, wanted, results, strict=True):
            shape = (batch.shape[0], batch.shape[1], batch.shape[2])
            equal = float((ours["labels"] == theirs["labels"]).mean())
            error = np.abs(ours["logits"] - theirs["logits"]).max()
            difference = float(error / np.abs(ours["logits"]).max())
            checks.append(Check(name, shape, equal, difference))
    dtype = predictor.task.config.model.dtype
    for check in checks:
        # Written so that a difference that is no number does not pass.
        if not (
            check.equal >= EQUAL_LABELS[dtype] and check.difference <= LOGITS_DIFFERENCE[dtype]
        ):
            raise UserError(
                f"the export in {folder} differs from its checkpoint; {check}, but "
                f"{EQUAL_LABELS[dtype]:.1%} and {LOGITS_DIFFERENCE[dtype]:.0e} are asked for. Do "
                "not use it"
            )
    return checks


def read_description(folder: Path) -> tuple[str, list[str], Size | None]:
    """Of which checkpoint an export is, its artefacts, and the only (h, w) that ONNX takes, if any.

    Raises:
      UserError: there is no export, or its `model.json` is damaged.
    """
    try:
        described = parse_json((folder / "model.json").read_text())
        names, fixed = list(described["files"]), described["onnx_size"]
        if not names or not set(names) <= set(_READERS):
            raise ValueError(f"it names {names}")
        if fixed is not None:
            height, width = map(int, fixed)
            fixed = height, width
            if min(fixed) < 1:
                raise ValueError(f"its size is {fixed}")
        return str(described["checkpoint"]), names, fixed
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        raise UserError(f"{folder} holds no export: model.json is missing or damaged") from None


def shapes_to_check(long_side: int) -> list[tuple[int, int, int]]:
    """Returns (b, h, w) of images to compare: whole multiples, odd sizes, and above a limit."""
    shapes = [(1, 64, 96), (3, 97, 71)]
    if long_side:
        height = round(1.3 * long_side)
        shapes.append((1, height, height * 3 // 4 + 1))
    return shapes


def random_batches(shapes: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
    """Returns random images `b h w 3` uint8 of patches, for (b, h, w) each."""
    rng, patch = np.random.default_rng(0), 8
    found = []
    for b, h, w in shapes:
        coarse = rng.integers(0, 256, (b, -(-h // patch), -(-w // patch), 3), np.uint8)
        found.append(coarse.repeat(patch, 1).repeat(patch, 2)[:, :h, :w])
    return found


def _expected(predictor: Predictor, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Computes labels as `--mode=predict` does, and logits."""
    labels = np.stack([one_pass_predictor(predictor)(image).labels for image in batch])
    return {"labels": labels, "logits": np.asarray(jax.jit(program(predictor))(batch)["logits"])}


_READERS = {
    "model.jax": """
from jax import export, jit
call = jit(export.deserialize(bytearray(model)).call)
""",
    "model.onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
call = lambda image: dict(zip(["labels", "logits"], session.run(["labels", "logits"], {"image": image})))
""",  # noqa: E501
}
_RUN = """
import sys
sys.modules["gsto_jax"] = None  # it must do without
import numpy as np
model = open(sys.argv[1], "rb").read()
{reader}
batches = np.load(sys.argv[2])
found = {{n: call(batches[n]) for n in batches.files}}
np.savez(sys.argv[3], **{{f"{{n}}/{{k}}": np.asarray(v) for n, o in found.items() for k, v in o.items()}})
"""  # noqa: E501


def _fresh(path: Path, batches: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What an artefact finds in batches, in a process of its own."""
    code = _RUN.format(reader=_READERS[path.name])
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(given, *batches)
        command = [sys.executable, "-I", "-c", code, *map(str, (path, given, found))]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{path} does not run in a process of its own: {reason}")
        with np.load(found) as values:
            return [
                {name: values[f"arr_{n}/{name}"] for name in ("labels", "logits")}
                for n in range(len(batches))
            ]


def _onnx(predictor: Predictor, size: Size | None) -> bytes:
    # In a process of its own: jax2onnx leaves functions of its own in JAX. Devices and programs
    # cannot be sent there.
    fields = {field.name: getattr(predictor, field.name) for field in dataclasses.fields(predictor)}
    fields["variables"] = jax.tree.map(np.asarray, predictor.variables)
    del fields["mesh"], fields["task"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_convert, fields, size).result()


def _convert(fields: Mapping[str, Any], size: Size | None) -> bytes:
    jax.config.update("jax_platforms", "cpu")
    mesh = make_mesh(jax.local_devices()[:1])
    predictor = Predictor(**fields, task=task_of(fields["config"]), mesh=mesh)
    run = program(predictor)
    shape = symbolic_shape("b, h, w, 3" if size is None else f"b, {size[0]}, {size[1]}, 3")
    spec = jax.ShapeDtypeStruct(shape, jnp.uint8)
    # Traced here: jax2onnx puts functions of its own in place of some of JAX's while it traces, and
    # those take no symbolic sizes.
    closed = jax.make_jaxpr(lambda images: tuple(run(images).values()))(spec)
    with _quiet():
        import onnx
        from jax2onnx import to_onnx

        model = to_onnx(
            lambda images: tuple(_inlined(closed.jaxpr, closed.consts, [images], {})),
            [spec],
            model_name="gsto_jax",
            opset=_OPSET,
            input_names=["image"],
            output_names=["labels", "logits"],
        )
        # jax2onnx notes shapes of what lies between, some of them wrong; runtimes find their own.
        del model.graph.value_info[:]
        config = predictor.config["data"]
        properties = {
            "classes": json.dumps(predictor.classes),
            "palette": json.dumps(predictor.palette),
            "mean": json.dumps(config["mean"]),
            "std": json.dumps(config["std"]),
            "step": predictor.path.name,
        }
        onnx.helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
    return model.SerializeToString()


def _inlined(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], done: dict[Any, list[Any]]
) -> list[Any]:
    """Evaluates a program, with all that it calls inlined, as for a device of no special kind.

    What is left are operations on arrays, which every exporter knows; what is computed again, such
    as the weights of a resampling between the same two sizes, is taken from `done`.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def name_of(atom: Any) -> Any:
        return str(atom) if isinstance(atom, Literal) else id(values[atom])

    for eqn in jaxpr.eqns:
        given, primitive, params = list(map(read, eqn.invars)), eqn.primitive, eqn.params
        if primitive.name == "platform_index":
            found = [params["platforms"].index(None)]
        elif primitive.name == "cond" and isinstance(given[0], int):
            branch = params["branches"][given[0]]
            found = _inlined(branch.jaxpr, branch.consts, given[1:], done)
        elif inner := params.get("jaxpr") or params.get("call_jaxpr"):
            found = _inlined(inner.jaxpr, inner.consts, given, done)
        else:
            key = (primitive, str(params), *map(name_of, eqn.invars))
            if key not in done:
                result = primitive.bind(*given, **params)
                done[key] = result if primitive.multiple_results else [result]
            found = done[key]
        values |= zip(eqn.outvars, found, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what jax2onnx says of operations that it cannot load, none of them ours."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    parts = {folder / name: folder / f".{name}.partial" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for part, content in zip(parts.values(), contents.values(), strict=True):
                part.write_bytes(content)
            # The description goes first and comes last: without it there is no export.
            for name in ("model.json", "model.jax", "model.onnx", *OTHERS):
                (folder / name).unlink(missing_ok=True)
            for path, part in parts.items():
                part.replace(path)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)
    except OSError as error:
        if is_full(error):
            raise
        raise UserError(f"export folder {folder} cannot be written ({error.strerror})") from error
    return list(parts)
