"""Loads exported programs, which ONNX Runtime runs without JAX."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gsto_jax.errors import UserError, first_line
from gsto_jax.files import read_json_object
from gsto_jax.image_files import DecodeOptions
from gsto_jax.storage import error_reason, local_copy, read_file, to_path
from gsto_jax.types import Size

RUNTIMES = {".onnx": "onnx", ".jax": "jax"}
"""Runtime of an exported program by the suffix of its file."""
MODEL_FILES = {
    "onnx": "model.onnx",
    "onnx-float16": "model.float16.onnx",
    "onnx-int8": "model.int8.onnx",
    "jax": "model.jax",
}
"""Files of an export by format, in the order in which a folder is searched."""
_PACKAGES = {"onnx": "onnxruntime", "jax": "jax"}
_REQUIRED_OBJECTS = ("decode_options", "preprocessing", "settings")

Arrays = Mapping[str, np.ndarray]
Call = Callable[[Arrays], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Program:
    """An exported program.

    Attributes:
      path: its file.
      runtime: "onnx" or "jax".
      description: content of `model.json` (docs/export.md).
      call: maps inputs by name, in the order of the description, to outputs by name; raises
        RuntimeError.
    """

    path: Path
    runtime: str
    description: Mapping[str, Any]
    call: Call

    @property
    def task_name(self) -> str:
        """Name of the task: "segmentation" or "pose"."""
        return str(self.description["task"])

    @property
    def decode_options(self) -> DecodeOptions:
        """How image files are decoded, as in training."""
        return DecodeOptions(**self.description["decode_options"])

    @property
    def onnx_size(self) -> Size | None:
        """Size (h, w) of the images that the program takes; None for any."""
        size = self.description.get("onnx_size") if self.runtime == "onnx" else None
        return None if size is None else (int(size[0]), int(size[1]))

    def check_task(self, task: str) -> None:
        """Raises UserError if the program is of another task."""
        if self.task_name != task:
            raise UserError(
                f"program must be of a {task} task; got {self.path}, of a {self.task_name} task"
            )

    def check_size(self, size: Size) -> None:
        """Raises UserError for an image of a size (h, w) that the program does not take."""
        if self.onnx_size not in (None, size):
            height, width = self.onnx_size or size
            raise UserError(
                f"{self.path} takes images of {height}x{width}; got {size[0]}x{size[1]} (height x "
                "width). Export without --onnx_size for any size"
            )


def find_program(checkpoint: str | Path) -> Path | None:
    """Returns the exported program that a path names; None for a run or a checkpoint.

    Args:
      checkpoint: a file `*.onnx` or `*.jax`, or the folder of an export, of which the first of
        `MODEL_FILES` is taken whose runtime is installed.
    """
    path = to_path(checkpoint, "checkpoint")
    if path.suffix in RUNTIMES:
        return path
    if not (path / "model.json").is_file():
        return None
    programs = [path / name for name in MODEL_FILES.values() if (path / name).is_file()]
    usable = [program for program in programs if find_spec(_PACKAGES[RUNTIMES[program.suffix]])]
    return next(iter(usable or programs), None)


def load_program(path: str | Path) -> Program:
    """Loads an exported program.

    Args:
      path: file of the program; `model.jax` needs `model.json` beside it.

    Raises:
      UserError: the file or its description is missing or damaged, or its runtime is not installed.
    """
    path = to_path(path, "checkpoint")
    runtime = RUNTIMES.get(path.suffix)
    if runtime is None:
        raise UserError(f"a program must be a file {' or '.join(RUNTIMES)}; got {path}")
    if not path.is_file():
        raise UserError(f"{path} does not exist: pass a file that --mode=export wrote")
    if not find_spec(_PACKAGES[runtime]):
        raise UserError(f"{path} needs {_PACKAGES[runtime]}: run pip install {_PACKAGES[runtime]}")
    call, text = (_load_onnx if runtime == "onnx" else _load_jax)(path)
    return Program(path, runtime, _read_description(path, text), call)


def _load_onnx(path: Path) -> tuple[Call, str | None]:
    """Returns the call of an ONNX file, and the description in its metadata."""
    import onnxruntime

    try:
        with local_copy(path) as local:  # by name, since a large model may have further files
            session = onnxruntime.InferenceSession(str(local), providers=_providers(onnxruntime))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error_reason(error)}") from None
    except Exception as error:  # those of onnxruntime have no public base
        raise UserError(f"{path} is damaged, or not an ONNX model: {first_line(error)}") from None
    names = [output.name for output in session.get_outputs()]

    def call(inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise RuntimeError(f"{path}: {error}") from error

    return call, session.get_modelmeta().custom_metadata_map.get("description")


def _providers(onnxruntime: Any) -> list[str]:
    """Returns CUDA, if this onnxruntime has it, and the CPU."""
    available = onnxruntime.get_available_providers()
    return [x for x in ("CUDAExecutionProvider", "CPUExecutionProvider") if x in available]


def _load_jax(path: Path) -> tuple[Call, None]:
    """Returns the call of a `jax.export` program."""
    import jax

    try:
        program = jax.export.deserialize(bytearray(read_file(path)))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error_reason(error)}") from None
    except Exception:  # a parser of flatbuffers raises any
        raise UserError(f"{path} is damaged, or not a program of jax.export") from None
    run = jax.jit(program.call)

    def call(inputs: Arrays) -> dict[str, np.ndarray]:
        return {name: np.asarray(x) for name, x in run(*inputs.values()).items()}

    return call, None


def _read_description(path: Path, text: str | None) -> dict[str, Any]:
    """Returns the description of a program, of its metadata or of the `model.json` beside it."""
    source = path if text is not None else path.with_name("model.json")
    try:
        value: Any = json.loads(text) if text is not None else read_json_object(source)
        if all(isinstance(value[name], dict) for name in _REQUIRED_OBJECTS) and value["task"]:
            DecodeOptions(**value["decode_options"])
            return dict(value)
    except (ValueError, LookupError, TypeError):
        pass
    raise UserError(
        f"{source} must describe the program, as --mode=export writes it; it is missing or damaged"
    )
