"""Loads exported programs, which ONNX Runtime runs without JAX."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.files import read_json_object
from gsto_jax.image_files import DecodeOptions
from gsto_jax.storage import error_reason, is_folder, local_copy, read_file, to_path
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
_INPUTS = {
    "segmentation": {"image": "uint8"},
    "pose": {"image": "uint8", "boxes": "float32"},
    "classification": {"image": "uint8"},
}
"""Dtypes of a program's inputs by task and name, in their order."""
_OUTPUTS = {
    "segmentation": ("labels", "logits"),
    "pose": ("joints", "scores"),
    "classification": ("probabilities",),
}

Arrays = Mapping[str, np.ndarray]
RunProgram = Callable[[Arrays], dict[str, np.ndarray]]


class ProgramError(UserError):
    """A runtime cannot run a program, or a program fails on an input."""


@dataclass(frozen=True)
class Program:
    """An exported program.

    Attributes:
      path: its file.
      runtime: "onnx" or "jax".
      description: content of `model.json` (docs/export.md).
      run: maps inputs by name, in the order of `_INPUTS`, to outputs by name; raises the errors of
        the runtime.
      remedy: what a user may do if the runtime fails.
    """

    path: Path
    runtime: str
    description: Mapping[str, Any]
    run: RunProgram
    remedy: str = (
        "Export it again, use another program of the export, or pass the run as the checkpoint"
    )

    @property
    def task_name(self) -> str:
        """Name of the task: "segmentation", "pose" or "classification"."""
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

    def call(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Runs the program.

        Args:
          inputs: by name, in the order of the description.

        Raises:
          RuntimeError: the inputs do not fit into memory (`is_out_of_memory`).
          ProgramError: the runtime fails for any other reason.
        """
        try:
            return self.run(inputs)
        except Exception as error:  # those of onnxruntime have no public base
            if is_out_of_memory(error):
                raise RuntimeError(f"{self.path}: {error}") from error
            arrays = ", ".join(f"{name} {x.dtype} {x.shape}" for name, x in inputs.items())
            raise ProgramError(
                f"{self.path} fails in {_release(self.runtime)} with {arrays}: {_reason(error)}. "
                f"{self.remedy}"
            ) from error

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


def find_program(checkpoint: str | Path, runtime: str = "auto") -> Path | None:
    """Returns the exported program that a path names; None for a run or a checkpoint.

    Args:
      checkpoint: a file `*.onnx` or `*.jax`, or the folder of an export, of which the first of
        `MODEL_FILES` is taken whose runtime is installed. A folder may have any name.
      runtime: "onnx" or "jax" prefers the programs of a folder that this runtime runs.
    """
    path = to_path(checkpoint, "checkpoint")
    if path.suffix in RUNTIMES and not is_folder(path):
        return path
    if not (path / "model.json").is_file():
        return None
    programs = [path / name for name in MODEL_FILES.values() if (path / name).is_file()]
    usable = [program for program in programs if find_spec(_PACKAGES[RUNTIMES[program.suffix]])]
    preferred = [program for program in programs if RUNTIMES[program.suffix] == runtime]
    return next(iter(preferred or usable or programs), None)


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
        problem = "is a folder" if is_folder(path) else "does not exist"
        raise UserError(f"{path} {problem}: pass a file that --mode=export wrote")
    if not find_spec(_PACKAGES[runtime]):
        raise UserError(f"{path} needs {_PACKAGES[runtime]}: run pip install {_PACKAGES[runtime]}")
    loaded = (_load_onnx if runtime == "onnx" else _load_jax)(path)
    program = Program(path, runtime, _read_description(path, loaded.description), loaded.run)
    _check_interface(program, loaded)
    return program


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error of JAX or of ONNX Runtime says that memory is exhausted."""
    return any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "bad_alloc", "allocate"))


class _LoadedProgram(NamedTuple):
    """A program in its runtime: dtypes of its inputs, names of its outputs, its own description."""

    run: RunProgram
    inputs: list[str]
    outputs: list[str]
    description: str | None


def _load_onnx(path: Path) -> _LoadedProgram:
    import onnxruntime

    try:
        with local_copy(path) as local:  # by name, since a large model may have further files
            session = onnxruntime.InferenceSession(str(local), providers=_providers(onnxruntime))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error_reason(error)}") from None
    except Exception as error:
        raise _loading_error(path, error) from None
    dtypes = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    inputs = [f"{x.name} {dtypes.get(x.type, x.type)}" for x in session.get_inputs()]
    names = [output.name for output in session.get_outputs()]

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(arrays)), strict=True))

    description = session.get_modelmeta().custom_metadata_map.get("description")
    return _LoadedProgram(run, inputs, names, description)


def _providers(onnxruntime: Any) -> list[str]:
    """Returns CUDA, if this onnxruntime has it, and the CPU."""
    available = onnxruntime.get_available_providers()
    return [x for x in ("CUDAExecutionProvider", "CPUExecutionProvider") if x in available]


def _load_jax(path: Path) -> _LoadedProgram:
    import jax

    try:
        program = jax.export.deserialize(bytearray(read_file(path)))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error_reason(error)}") from None
    except Exception as error:  # a parser of flatbuffers raises any
        raise _loading_error(path, error) from None
    compiled = jax.jit(program.call)

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        return {name: np.asarray(x) for name, x in compiled(*arrays.values()).items()}

    outputs = jax.tree.unflatten(program.out_tree, program.out_avals)
    names = list(outputs) if isinstance(outputs, dict) else []
    return _LoadedProgram(run, [str(x.dtype) for x in program.in_avals], names, None)


def _loading_error(path: Path, error: Exception) -> UserError:
    runtime = RUNTIMES[path.suffix]
    package = _PACKAGES[runtime]
    return UserError(
        f"{path} cannot be loaded by {_release(runtime)} ({_reason(error)}): it is damaged, no "
        f"{path.suffix} program, or needs a newer {package}. Export it again, or run pip install "
        f"--upgrade {package}"
    )


def _release(runtime: str) -> str:
    package = _PACKAGES[runtime]
    return f"{package} {import_module(package).__version__}"


def _reason(error: Exception) -> str:
    """Returns the message of a runtime's error in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_interface(program: Program, loaded: _LoadedProgram) -> None:
    """Raises UserError for other inputs or outputs than those of the program's task."""
    inputs, outputs = _INPUTS[program.task_name], _OUTPUTS[program.task_name]
    expected = [f"{name} {dtype}" for name, dtype in inputs.items()]
    if program.runtime == "jax":  # its inputs have no names
        expected = list(inputs.values())
    if loaded.inputs != expected or not set(outputs) <= set(loaded.outputs):
        raise UserError(
            f"{program.path}, a program of a {program.task_name} task, must map "
            f"{', '.join(expected)} to {', '.join(outputs)}; got {', '.join(loaded.inputs)} to "
            f"{', '.join(loaded.outputs)}. Export it again"
        )


def _read_description(path: Path, text: str | None) -> dict[str, Any]:
    """Returns the description of a program, of its metadata or of the `model.json` beside it."""
    source = path if text is not None else path.with_name("model.json")
    try:
        value: Any = json.loads(text) if text is not None else read_json_object(source)
        if all(isinstance(value[name], dict) for name in _REQUIRED_OBJECTS):
            _ = _INPUTS[value["task"]]
            DecodeOptions(**value["decode_options"])
            return dict(value)
    except (ValueError, LookupError, TypeError):
        pass
    raise UserError(
        f"{source} must describe the program, as --mode=export writes it; it is missing or damaged"
    )
