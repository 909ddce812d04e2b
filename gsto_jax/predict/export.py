"""Exports a checkpoint as `model.jax` and `model.onnx`, which run without this package.

The models of segmentation networks take images `b h w c` uint8, RGB for 3 channels, with free batch
size and image size, and return "labels" `b h w` uint8, and "logits" `b h' w' k` float32 of the
padded image. They include all steps from decoded image to labels: scaling to `long_side` and back,
padding and normalization (`gsto_jax.predict.single_pass`), but not the scales, flip and windows of
a test protocol. The models of pose networks take one image `h w 3` uint8 and boxes of persons, and
return joints, with crop, flip and decoding (`gsto_jax.predict.pose_program`). The models of
classification networks take images as those of segmentation do, and return class probabilities,
with crop and flip (`gsto_jax.predict.class_program`). `model.json` describes them.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import cv2
import jax
import numpy as np

from gsto_jax import progress
from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write, disk_error_message, is_disk_full, make_folder, to_json
from gsto_jax.predict.description import PLATFORMS, ExportablePredictor, describe
from gsto_jax.predict.media import resize_image
from gsto_jax.predict.onnx_export import onnx_bytes, program_source
from gsto_jax.predict.onnx_precision import to_float16, to_int8
from gsto_jax.predict.pose import PosePredictor
from gsto_jax.predict.program_source import ProgramSource
from gsto_jax.predict.programs import MODEL_FILES
from gsto_jax.storage import error_reason, to_path
from gsto_jax.types import Size

FORMATS = tuple(MODEL_FILES)
_CONVERTERS = {"onnx": "jax2onnx", "onnx-float16": "onnx", "onnx-int8": "onnxruntime"}
"""Package that converts to a format."""
WEIGHT_FILES = ("weights.safetensors", "weights.pth")
"""Files of the same checkpoint that `--mode=export` writes to the same folder."""


def export(
    predictor: ExportablePredictor,
    folder: str | Path,
    formats: Sequence[str] = ("jax", "onnx"),
    size: Size | None = None,
    calibration: Sequence[np.ndarray] = (),
) -> list[Path]:
    """Exports a checkpoint as models that run without this package.

    Files are written atomically, after all of them are built, and replace an earlier export;
    `model.json` is written last.

    Args:
      predictor: predictor of the checkpoint.
      folder: output folder; created if missing.
      formats: any of `FORMATS`.
      size: fixed (h, w) of the images of ONNX models; None for any size. The number of images or
        persons is free, and `model.jax` takes any size.
      calibration: images `h w c` uint8 from which "onnx-int8" learns the ranges of activations.

    Returns:
      Paths of the files.

    Raises:
      UserError: an unknown format, a missing package, a network that a format does not support or
        its converter fails at, no calibration images, or a folder that is not writable.
      OSError: the disk is full, or temporary files cannot be written.

    Example:
      >>> export(Predictor.load("runs/camvid_w18s"), "exported", formats=("jax",))
    """
    check_exportable(predictor, formats, size)
    if "onnx-int8" in formats and not len(calibration):
        raise UserError("the format onnx-int8 needs calibration images; got none")
    source, contents = program_source(predictor), {}
    description = describe(predictor, source, formats, size)
    if "jax" in formats:
        with progress.track("exporting model.jax", always_log=True):
            contents["model.jax"] = _jax_bytes(source)
    if onnx_formats := [name for name in FORMATS if name in formats and name != "jax"]:
        running = progress.track("exporting model.onnx", always_log=True)
        with running, _converter_errors("onnx", predictor.checkpoint):
            model = onnx_bytes(predictor, size, description)
    for name in onnx_formats:
        running = progress.track(f"converting {MODEL_FILES[name]}")
        with running, _converter_errors(name, predictor.checkpoint):
            if name == "onnx-float16":
                contents[MODEL_FILES[name]] = to_float16(model)
            elif name == "onnx-int8":
                inputs = calibration_inputs(predictor, calibration, size)
                contents[MODEL_FILES[name]] = to_int8(model, inputs)
            else:
                contents[MODEL_FILES[name]] = model
    description["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    contents["model.json"] = (to_json(description, indent=2) + "\n").encode()
    return _write(to_path(folder, "folder"), contents)


def _jax_bytes(source: ProgramSource) -> bytes:
    exported = jax.export.export(jax.jit(source.call), platforms=PLATFORMS)
    return bytes(exported(*source.tracing_specs()).serialize())


@contextlib.contextmanager
def _converter_errors(name: str, checkpoint: Path) -> Iterator[None]:
    """Converts errors of the converter to a format, which have no public base, to UserErrors."""
    try:
        yield
    except Exception as error:
        if disk_error_message(error):
            raise
        package = _CONVERTERS[name]
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"formats: {name} of {checkpoint} fails in {package} {version(package)} ({reason}): "
            f"{_remedy(error, name)}, or leave out {name}"
        ) from error


def _remedy(error: Exception, name: str) -> str:
    if isinstance(error, BrokenProcessPool):
        return "it needs more memory: pass a fixed size, export on a larger machine"
    if isinstance(error, FileNotFoundError):  # no folder of `tempfile` is writable
        return "set TMPDIR to a writable folder"
    images = "pass other calibration images, " if name == "onnx-int8" else ""
    return f"{images}install the packages of requirements.txt"


def calibration_inputs(
    predictor: ExportablePredictor, images: Sequence[np.ndarray], size: Size | None = None
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields the inputs of the program for images `h w c`, resized to (h, w) unless None.

    A pose network gets one person that fills the image.
    """
    for image in images:
        pixels = image if size is None else resize_image(image, size, cv2.INTER_AREA)
        height, width = pixels.shape[:2]
        if isinstance(predictor, PosePredictor):
            yield {"image": pixels, "boxes": np.array([[0, 0, width, height]], np.float32)}
        else:
            yield {"image": pixels[None]}


def check_exportable(
    predictor: ExportablePredictor,
    formats: Sequence[str] = ("jax", "onnx"),
    size: Size | None = None,
) -> None:
    """Raises the UserErrors of `export`, before anything is traced."""
    model, num_classes = predictor.task.config.model, predictor.task.num_classes
    has_onnx = any(name.startswith("onnx") for name in formats)
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
        (
            predictor.task_name == "segmentation" and num_classes > 256,
            f"a model to export must have at most 256 classes; got {num_classes}",
        ),
        (
            model.dtype not in ("float32", "bfloat16"),
            f"config.model.dtype must be one of float32, bfloat16 to export; got {model.dtype}",
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


def _write(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    try:
        make_folder(folder)
        # model.json is removed first and written last, so that an export with it is complete.
        with contextlib.ExitStack() as stack:
            for name in reversed(contents):
                stack.enter_context(atomic_write(folder / name)).write_bytes(contents[name])
            for name in ("model.json", *MODEL_FILES.values(), *WEIGHT_FILES):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"cannot write export folder {folder}: {error_reason(error)}") from error
    return [folder / name for name in contents]
