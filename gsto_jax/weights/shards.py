"""Checkpoints in several files: an index in JSON that names the shard of every tensor."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gsto_jax.errors import UserError

INDEX = ".index.json"
"""End of an index file's name, as in `model.safetensors.index.json`."""
_SHOWN = 5  # names in a message


def weights_file(path: Path) -> Path:
    """Returns the file of weights that a path names: the path, or the only one in a folder.

    Raises:
      UserError: there is no such path, or the folder holds none or several.
    """
    if not path.exists():
        raise UserError(
            f"weights {path}: the file does not exist: give a .pth or a .safetensors file"
        )
    if not path.is_dir():
        return path
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    for suffixes in ((INDEX,), (".safetensors",), (".pth", ".pt", ".ckpt", ".bin")):
        files = [name for name in names if name.endswith(suffixes)]
        if len(files) == 1:
            return path / files[0]
        if files:
            raise UserError(
                f"weights {path}: the folder holds {len(files)} files of weights "
                f"({_listed(files)}): name one"
            )
    raise UserError(
        f"weights {path}: the folder holds no weights: give a .pth or a .safetensors file, a "
        f"*{INDEX}, or the folder that holds one of them"
    )


def read_shards(
    index: Path, read: Callable[[Path], Mapping[str, Any]]
) -> tuple[dict[str, Any], list[Path]]:
    """Reads all shards that an index names.

    Args:
      index: file whose "weight_map" gives the shard of each tensor.
      read: reads one shard.

    Returns:
      The tensors by name, and the files of the shards.

    Raises:
      UserError: the index is damaged, a shard is missing, or index and shards disagree.
    """
    shard_of = _weight_map(index)
    shards = [index.parent / name for name in sorted(set(shard_of.values()))]
    for shard in shards:
        if not shard.is_file():
            count = sum(name == shard.name for name in shard_of.values())
            raise UserError(
                f"weights {index}: shard {shard.name} is missing beside it, with {count} of "
                f"{len(shard_of)} tensors: get it too"
            )
    tables = {shard.name: read(shard) for shard in shards}
    counts = Counter(key for table in tables.values() for key in table)
    if twice := sorted(key for key, count in counts.items() if count > 1):
        raise UserError(
            f"weights {index}: several shards hold {_listed(twice)}: get the files again"
        )
    missing = [key for key, name in shard_of.items() if key not in tables[name]]
    if missing:
        raise UserError(
            f"weights {index}: {shard_of[missing[0]]} lacks {_listed(missing)}, which the index "
            "places there: get the files again"
        )
    if extra := sorted(counts.keys() - shard_of.keys()):
        raise UserError(
            f"weights {index}: the shards hold {_listed(extra)}, which the index does not list: "
            "get the files again"
        )
    return {key: tables[name][key] for key, name in shard_of.items()}, shards


def _weight_map(index: Path) -> dict[str, str]:
    remedy = "give the index that belongs to the shards"
    try:
        content = json.loads(index.read_bytes(), object_pairs_hook=_unique)
        shard_of = content["weight_map"]
        if not isinstance(shard_of, dict) or not shard_of:
            raise ValueError("its weight_map is no table of names")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = "it has no weight_map" if isinstance(error, KeyError) else str(error)[:200]
        raise UserError(f"weights {index}: damaged index ({reason}): {remedy}") from None
    for key, name in shard_of.items():
        # A name with a folder in it could reach any file of the machine.
        if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\\"} & set(name):
            raise UserError(
                f"weights {index}: {key} lies in {json.dumps(name)[:100]}, which is no name of a "
                f"file beside the index: {remedy}"
            )
    return shard_of


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(
            f"it lists {_listed([name for name, count in names.items() if count > 1])} twice"
        )
    return table


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
