"""Exports a checkpoint as `model.jax` and `model.onnx`, which run without this package.

The models take images `b h w c` uint8, RGB for 3 channels, with free batch size and image size, and
return a dict, in ONNX two outputs of the same names: "labels" `b h w` uint8, and "logits"
`b h' w' k` float32 of the padded image. They include all steps from decoded image to labels:
scaling to `long_side` and back, padding and normalization (`gsto_jax.predict.single_pass`), but not
the scales, flip and windows of a test protocol. `model.json` describes them.
"""

import contextlib
import hashlib
from collections.abc import Sequence
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
from gsto_jax.files import atomic_write, is_disk_full, make_folder, to_json
from gsto_jax.ops.sizes import PUBLISHED
from gsto_jax.predict.onnx_export import onnx_bytes
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.predict.single_pass import make_program, single_pass_protocol
from gsto_jax.runs.checkpoint import package_versions
from gsto_jax.storage import error_reason, to_path
from gsto_jax.types import Size

FORMATS = ("jax", "onnx")
PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHT_FILES = ("weights.safetensors", "weights.pth")
"""Files of the same checkpoint that `--mode=export` writes to the same folder."""


def export(
    predictor: Predictor,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    size: Size | None = None,
) -> list[Path]:
    """Exports a checkpoint as models that run without this package.

    Files are written atomically, after all of them are built, and replace an earlier export;
    `model.json` is written last.

    Args:
      predictor: predictor of the checkpoint.
      folder: output folder; created if missing.
      formats: any of `FORMATS`.
      size: fixed (h, w) of `model.onnx`; None for any size. The batch size is free, and `model.jax`
        takes any size.

    Returns:
      Paths of the files.

    Raises:
      UserError: an unknown format, a missing package, a network that a format does not support, or
        a folder that is not writable.

    Example:
      >>> export(Predictor.load("runs/camvid_w18s"), "exported", formats=("jax",))
    """
    check_exportable(predictor, formats, size)
    description = describe(predictor, formats, size)
    program, contents = make_program(predictor), {}
    if "jax" in formats:
        spec = jax.ShapeDtypeStruct(
            symbolic_shape(f"b, h, w, {predictor.task.in_channels}"), jnp.uint8
        )
        with progress.track("exporting model.jax", always_log=True):
            exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(spec)
            contents["model.jax"] = bytes(exported.serialize())
    if "onnx" in formats:
        with progress.track("exporting model.onnx", always_log=True):
            contents["model.onnx"] = onnx_bytes(predictor, size, description)
    description["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    contents["model.json"] = (to_json(description, indent=2) + "\n").encode()
    return _write(to_path(folder, "folder"), contents)


def check_exportable(
    predictor: Predictor, formats: Sequence[str] = FORMATS, size: Size | None = None
) -> None:
    """Raises the UserErrors of `export`, before anything is traced."""
    model, num_classes = predictor.task.config.model, predictor.task.num_classes
    has_onnx = "onnx" in formats
    packages = ("jax2onnx", "onnx", "onnxruntime")
    missing = [name for name in packages if has_onnx and not find_spec(name)]
    for is_invalid, message in (
        (
            not formats or not set(formats) <= set(FORMATS),
            f"formats must be some of {', '.join(FORMATS)}, or safetensors, pth, hub for weights; "
            f"got {', '.join(formats) or 'none'}",
        ),
        (
            size is not None and (len(size) != 2 or min(size) < 1),
            f"size must be height and width in pixels; got {size}",
        ),
        (num_classes > 256, f"a model to export must have at most 256 classes; got {num_classes}"),
        (
            model.dtype not in ("float32", "bfloat16"),
            f"config.model.dtype must be one of float32, bfloat16 to export; got {model.dtype}",
        ),
        (
            has_onnx and model.is_context_net,
            "formats must be jax for a ResNet, since ONNX runtimes lack its pooling; got onnx of "
            f"{predictor.checkpoint}",
        ),
        (
            has_onnx and model.dtype != "float32",
            f"config.model.dtype must be float32 to export onnx; got {model.dtype}. Export jax",
        ),
        (
            missing,
            f"the format onnx needs missing packages ({', '.join(missing)}): run pip install "
            "'gsto-jax[onnx]', or export jax",
        ),
    ):
        if is_invalid:
            raise UserError(message)


def describe(predictor: Predictor, formats: Sequence[str], size: Size | None) -> dict[str, Any]:
    """Describes an export: what `model.json`, less its "files", and `model.onnx` hold."""
    data, num_classes = predictor.config["data"], len(predictor.classes)
    channels = predictor.task.in_channels
    stride = predictor.trained.task.config.model.output_stride
    packages = [name for name in ("jax2onnx", "onnx", "onnxruntime") if "onnx" in formats]
    return {
        "task": "segmentation",
        "checkpoint": str(predictor.checkpoint),
        "step": int(predictor.checkpoint.name),
        "classes": predictor.classes,
        "palette": predictor.palette,
        "mean": data["mean"],
        "std": data["std"],
        "decode_options": asdict(predictor.decode_options),
        "preprocessing": preprocessing(predictor),
        "inputs": {
            "image": {
                "shape": ["b", "h", "w", channels],
                "dtype": "uint8",
                "color": "RGB" if channels == 3 else "as stored",
            },
        },
        "outputs": {
            "labels": {"shape": ["b", "h", "w"], "dtype": "uint8"},
            "logits": {
                "shape": ["b", f"ceil(H/{stride})", f"ceil(W/{stride})", num_classes],
                "dtype": "float32",
            },
        },
        "onnx_size": size,
        "platforms": PLATFORMS,
        "versions": package_versions() | {name: version(name) for name in packages},
        "settings": predictor.config,
    }


def preprocessing(predictor: Predictor) -> dict[str, Any]:
    """Describes the preprocessing in the models, and the test protocol that they omit."""
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
        make_folder(folder)
        # model.json is removed first and written last, so that an export with it is complete.
        with contextlib.ExitStack() as stack:
            for name in reversed(contents):
                stack.enter_context(atomic_write(folder / name)).write_bytes(contents[name])
            for name in ("model.json", "model.jax", "model.onnx", *WEIGHT_FILES):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"cannot write export folder {folder}: {error_reason(error)}") from error
    return [folder / name for name in contents]
