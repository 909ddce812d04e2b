"""Files of weights: `.safetensors`, what `torch.save` writes, and shards of either."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gsto_jax.errors import UserError
from gsto_jax.files import parse_json
from gsto_jax.weights.torch_file import Unread, read_torch, write_torch

_INDEX = ".index.json"  # ends the name of an index, as in `model.safetensors.index.json`
_SHOWN = 5  # names in a message


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name."""
    dense = {key: np.asarray(array, order="C") for key, array in arrays.items()}
    path.write_bytes(save(dense, {"format": "pt"}))


SUFFIXES: Mapping[str, Callable[[Path, Mapping[str, np.ndarray]], None]] = {
    ".safetensors": write_safetensors,
    ".pth": write_torch,
}
"""Writers of files of weights by the suffix of the file."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
      arrays: by name; of nested tables, names are joined: "state_dict.conv1.weight".
      files: the file, or the index and its shards.
      refusal: what of it was not read, in words; "" for nothing.
    """

    arrays: dict[str, np.ndarray]
    files: list[Path]
    refusal: str = ""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint.

    Args:
      path: a `.safetensors` file, what `torch.save` wrote, a `*.index.json` beside its shards, or
        a folder that holds one of them.

    Raises:
      UserError: there is no such file, it cannot be read, or it holds no arrays.
    """
    path = _weights_file(Path(path).expanduser().absolute())
    try:
        values, shards = _read_shards(path) if path.name.endswith(_INDEX) else (_read(path), [])
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"weights {path} cannot be read ({reason})") from None
    arrays = {key: value for key, value in values.items() if not isinstance(value, Unread)}
    unread = [(key, value.name) for key, value in values.items() if isinstance(value, Unread)]
    refusal = ""
    if unread:
        refusal = (
            f"{unread[0][0] or 'it'} asks for {unread[0][1]}, which no tensor needs: nothing of it "
            "was run. If you trust the file, save its state_dict alone where PyTorch is"
        )
    if not arrays:
        raise UserError(f"{path} holds no state_dict: {refusal or 'there is no tensor in it'}")
    return Checkpoint(arrays, [path, *shards], refusal)


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint by name; see `read_checkpoint`."""
    return read_checkpoint(path).arrays


def _read(path: Path) -> Mapping[str, np.ndarray | Unread]:
    if path.suffix != ".safetensors":
        return read_torch(path)
    try:
        return load_file(path, backend="pread")
    except (SafetensorError, ValueError, AttributeError) as error:
        # An AttributeError names a dtype that NumPy lacks.
        raise UserError(
            f"{path} is no safetensors file, or damaged or cut off ({str(error)[:200]}): get it "
            "again"
        ) from None


def _weights_file(path: Path) -> Path:
    """Returns the path, or the only file of weights in a folder."""
    remedy = (
        f"give a .pth or a .safetensors file, a *{_INDEX}, or the folder that holds one of them"
    )
    if not path.exists():
        raise UserError(f"weights {path}: the file does not exist: {remedy}")
    if not path.is_dir():
        return path
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    for suffixes in ((_INDEX,), (".safetensors",), (".pth", ".pt", ".ckpt", ".bin")):
        files = [name for name in names if name.endswith(suffixes)]
        if len(files) == 1:
            return path / files[0]
        if files:
            count = f"{len(files)} files of weights"
            raise UserError(
                f"weights {path}: the folder holds {count} ({_listed(files)}): name one"
            )
    raise UserError(f"weights {path}: the folder holds no weights: {remedy}")


def _read_shards(index: Path) -> tuple[Mapping[str, np.ndarray | Unread], list[Path]]:
    """Reads the shards that an index names, which must hold exactly what it lists."""
    names_of: dict[str, set[str]] = {}
    for key, name in _weight_map(index).items():
        names_of.setdefault(name, set()).add(key)
    shards = {name: index.parent / name for name in sorted(names_of)}
    for name, shard in shards.items():
        if not shard.is_file():
            count = f"{len(names_of[name])} tensors"
            raise UserError(f"weights {index}: shard {name} is missing, with {count}: get it too")
    values: dict[str, np.ndarray | Unread] = {}
    for name, shard in shards.items():
        held = _read(shard)
        if missing := names_of[name] - held.keys():
            problem = f"{name} lacks {_listed(missing)}, which the index places there"
        elif extra := held.keys() - names_of[name]:
            problem = f"{name} holds {_listed(extra)}, which the index does not place there"
        else:
            values |= held
            continue
        raise UserError(f"weights {index}: {problem}: get the files again")
    return values, list(shards.values())


def _weight_map(index: Path) -> dict[str, str]:
    """Returns the names of the shards by the tensors that they hold."""
    remedy = "give the index that belongs to the shards"
    try:
        shard_of = parse_json(index.read_bytes())["weight_map"]
        if not isinstance(shard_of, dict) or not shard_of:
            raise ValueError("its weight_map is no table of names")
    except (ValueError, TypeError, KeyError) as error:
        reason = f"damaged index ({str(error)[:200]})"
        raise UserError(f"weights {index}: {reason}: {remedy}") from None
    for key, name in shard_of.items():
        # A name with a folder in it could reach any file of the machine.
        if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\\"} & set(name):
            reason = f"{key} lies in {json.dumps(name)[:100]}, which is no name of a file beside it"
            raise UserError(f"weights {index}: {reason}: {remedy}")
    return shard_of


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
