"""Reads and writes weight files: `.safetensors`, `torch.save` files, and shards of either."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gsto_jax.errors import UserError
from gsto_jax.files import parse_json
from gsto_jax.storage import error_reason, is_folder, local_copy, to_path
from gsto_jax.weights.torch_file import UnsupportedObject, read_torch_file, write_torch_file

_INDEX = ".index.json"  # as in `model.safetensors.index.json`
_MAX_LISTED = 5  # names in an error message

Values = Mapping[str, np.ndarray | UnsupportedObject]


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a `.safetensors` file."""
    dense = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    path.write_bytes(save(dense, {"format": "pt"}))


WEIGHT_WRITERS: Mapping[str, Callable[[Path, Mapping[str, np.ndarray]], None]] = {
    ".safetensors": write_safetensors,
    ".pth": write_torch_file,
}
"""Writers of weight files by file suffix."""


@dataclass(frozen=True)
class WeightFile:
    """Content of a weight file."""

    arrays: dict[str, np.ndarray]  # by dotted key, such as "state_dict.conv1.weight"
    files: list[Path]  # the file, or the index and its shards
    warning: str = ""  # about objects that were not read


def read_weight_file(path: str | Path) -> WeightFile:
    """Reads a weight file.

    Args:
      path: A `.safetensors` or `torch.save` file, a `*.index.json` next to its shards, or a folder
        with one of them.

    Raises:
      UserError: The file does not exist, cannot be read, or contains no arrays.
    """
    path = _resolve(to_path(path, "weights"))
    try:
        values, shards = _read_shards(path) if path.name.endswith(_INDEX) else (_read(path), [])
    except OSError as error:
        reason = error_reason(error)
        raise UserError(f"weights {path} cannot be read ({reason})") from None
    arrays = {key: value for key, value in values.items() if isinstance(value, np.ndarray)}
    objects = [(key, x.name) for key, x in values.items() if isinstance(x, UnsupportedObject)]
    warning = ""
    if objects:
        key, name = objects[0]
        warning = (
            f"{key or 'it'} refers to {name}, which no tensor needs; it was not executed. If you "
            "trust the file, load it with PyTorch and save its state_dict"
        )
    if not arrays:
        raise UserError(f"{path} contains no state_dict: {warning or 'it has no tensors'}")
    return WeightFile(arrays, [path, *shards], warning)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a weight file by key; see `read_weight_file`."""
    return read_weight_file(path).arrays


def _read(path: Path) -> Values:
    with local_copy(path) as local:
        return _read_local(local)


def _read_local(path: Path) -> Values:
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return load_file(path, backend="pread")
    except (SafetensorError, ValueError, AttributeError) as error:
        # An AttributeError names a dtype that NumPy lacks.
        raise UserError(
            f"{path} is not a safetensors file, or is damaged or truncated ({str(error)[:200]}): "
            "download it again"
        ) from None


def _resolve(path: Path) -> Path:
    """Returns the path itself, or the only weight file in a folder."""
    remedy = f"pass a .pth or .safetensors file, a *{_INDEX}, or a folder with one of them"
    if not path.exists():
        raise UserError(f"weights {path}: the file does not exist: {remedy}")
    if not is_folder(path):
        return path
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    for suffixes in ((_INDEX,), (".safetensors",), (".pth", ".pt", ".ckpt", ".bin")):
        matches = [name for name in names if name.endswith(suffixes)]
        if len(matches) == 1:
            return path / matches[0]
        if matches:
            raise UserError(
                f"weights {path}: the folder contains {len(matches)} weight files "
                f"({_join(matches)}): choose one of them"
            )
    raise UserError(f"weights {path}: the folder contains no weights: {remedy}")


def _read_shards(index: Path) -> tuple[Values, list[Path]]:
    """Reads the shards of an index, which must hold exactly the tensors that it lists."""
    keys_by_shard: dict[str, set[str]] = {}
    for key, name in _read_index(index).items():
        keys_by_shard.setdefault(name, set()).add(key)
    for name, keys in keys_by_shard.items():
        if not (index.parent / name).is_file():
            raise UserError(
                f"weights {index}: shard {name} is missing, with {len(keys)} tensors: download it "
                "too"
            )
    values: dict[str, np.ndarray | UnsupportedObject] = {}
    for name, keys in sorted(keys_by_shard.items()):
        shard = _read(index.parent / name)
        problem = ""
        if missing := keys - shard.keys():
            problem = f"{name} lacks {_join(missing)}, listed by the index"
        elif extra := shard.keys() - keys:
            problem = f"{name} contains {_join(extra)}, not listed by the index"
        if problem:
            raise UserError(f"weights {index}: {problem}: download the files again")
        values |= shard
    return values, [index.parent / name for name in sorted(keys_by_shard)]


def _read_index(index: Path) -> dict[str, str]:
    """Returns shard names by tensor key."""
    remedy = "use the index of these shards"
    try:
        weight_map = parse_json(index.read_bytes())["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("its weight_map is not an object of names")
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"weights {index}: damaged index ({str(error)[:200]}): {remedy}") from None
    for key, name in weight_map.items():
        # A name with a folder in it could reach any file.
        if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\\"} & set(name):
            raise UserError(
                f"weights {index}: the shard of {key} must be a file next to the index; got "
                f"{json.dumps(name)[:100]}: {remedy}"
            )
    return weight_map


def _join(names: Collection[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(sorted(names)[:_MAX_LISTED]) + more
