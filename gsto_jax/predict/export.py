"""A checkpoint as files that run without this package: `model.jax`, `model.onnx`, `model.json`.

The programs take images `b h w 3` uint8 RGB, of any number and size, and return a dict (in ONNX
two outputs of the same names): "labels" `b h w` uint8, and "logits" `b h' w' k` float32 of the
image as the network saw it. All that `--mode=predict` does between decoding an image and its labels
is inside: scaling to `long_side` and back, padding, normalization (`gsto_jax.predict.single_pass`).
Only the scales, the mirror image and the windows of a test protocol are not.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import symbolic_shape

from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write, is_disk_full, to_json
from gsto_jax.ops.padding import PUBLISHED
from gsto_jax.predict.onnx_export import onnx_bytes
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import make_program, single_pass_protocol
from gsto_jax.runs.checkpoint import package_versions
from gsto_jax.types import Size

FORMATS = ("jax", "onnx")
PLATFORMS = ("cpu", "cuda", "tpu")
OTHERS = ("weights.safetensors", "weights.pth")
"""What else `--mode=export` writes beside the programs, of the same checkpoint."""


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
        of images is free, and `model.jax` takes any size.

    Returns:
      The files.

    Raises:
      UserError: an unknown format, packages that are missing, a network that a format cannot hold,
        or a folder that cannot be written.
    """
    check_exportable(predictor, formats, size)
    run, contents = make_program(predictor), {}
    if "jax" in formats:
        spec = jax.ShapeDtypeStruct(symbolic_shape("b, h, w, 3"), jnp.uint8)
        with progress.track("exporting model.jax", always_log=True):
            exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(spec)
            contents["model.jax"] = bytes(exported.serialize())
    if "onnx" in formats:
        with progress.track("exporting model.onnx", always_log=True):
            contents["model.onnx"] = onnx_bytes(predictor, size)
    description = _describe(predictor, contents, size)
    contents["model.json"] = (to_json(description, indent=2) + "\n").encode()
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
    if dtype not in ("float32", "bfloat16"):
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


def _describe(
    predictor: Predictor, contents: Mapping[str, bytes], size: Size | None
) -> dict[str, Any]:
    data, classes = predictor.config["data"], len(predictor.classes)
    stride = predictor.trained.task.config.model.output_stride
    packages = [name for name in ("jax2onnx", "onnx", "onnxruntime") if "model.onnx" in contents]
    return {
        "checkpoint": str(predictor.path),
        "step": int(predictor.path.name),
        "classes": predictor.classes,
        "palette": predictor.palette,
        "mean": data["mean"],
        "std": data["std"],
        "decode_options": asdict(predictor.rule),
        "preprocessing": preprocessing(predictor),
        "input": {"name": "image", "shape": ["b", "h", "w", 3], "dtype": "uint8", "color": "RGB"},
        "outputs": {
            "labels": {"shape": ["b", "h", "w"], "dtype": "uint8"},
            "logits": {
                "shape": ["b", f"ceil(H/{stride})", f"ceil(W/{stride})", classes],
                "dtype": "float32",
            },
        },
        "onnx_size": size,
        "platforms": PLATFORMS,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "versions": package_versions() | {name: version(name) for name in packages},
        "settings": predictor.config,
    }


def preprocessing(predictor: Predictor) -> dict[str, Any]:
    """Describes what the programs do to an image before the network, and what they leave out."""
    protocol = single_pass_protocol(predictor.protocol)
    return {
        "long_side": predictor.long_side,
        "base_size": protocol.base_size,
        "fixed_size": protocol.fixed_size,
        "pad_to": protocol.pad_to or PUBLISHED,
        "pad": predictor.trained.task.config.eval.pad,
        "normalization": "(pixel / 255 - mean) / std",
        "test_protocol": "" if predictor.protocol.is_single_pass else str(predictor.protocol),
    }


def _write(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The description goes first and comes last: without it there is no export.
        with contextlib.ExitStack() as stack:
            for name in reversed(contents):
                stack.enter_context(atomic_write(folder / name)).write_bytes(contents[name])
            for name in ("model.json", "model.jax", "model.onnx", *OTHERS):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"export folder {folder} cannot be written ({error.strerror})") from error
    return [folder / name for name in contents]
