"""Reads hub folders (`gsto_jax.hub`): weights of this package beside a description."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax.traverse_util import unflatten_dict

from gsto_jax.errors import UserError
from gsto_jax.files import read_json_object
from gsto_jax.storage import is_folder
from gsto_jax.weights.files import read_weight_file

LIBRARY = "gsto_jax"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FIELDS: Mapping[str, type] = {
    "architecture": str,
    "options": dict,
    "num_classes": int,
    "channels": int,
    "task": str,
    "name": str,
    "step": int,
    "network_options": dict,
    "weights": dict,
}
_ORIGIN_FIELDS: Mapping[str, type] = {"license": str, "sources": list}
_KINDS = {str: "text", int: "an integer", dict: "an object", list: "a list"}


@dataclass(frozen=True)
class HubFolder:
    """Content of a hub folder.

    Attributes:
      path: the folder.
      config: its config.json, whose fields are there and of the right type.
      variables: variables of the network as NumPy arrays.
      files: the files of the weights.
    """

    path: Path
    config: Mapping[str, Any]
    variables: dict[str, Any]
    files: Sequence[Path]

    @property
    def license(self) -> str:
        """License of the weights."""
        return str(self.config["weights"]["license"])

    @property
    def sources(self) -> list[Any]:
        """Weights that training started from; see `gsto_jax.hub.origin.Origin`."""
        return list(self.config["weights"]["sources"])


def read_hub_folder(path: Path) -> HubFolder | None:
    """Reads a hub folder; None if the path is anything else.

    Args:
      path: the folder, or the weights in it.

    Raises:
      UserError: a file is missing or damaged, or another version wrote it.
    """
    folder = path.parent if path.name == WEIGHTS else path
    config = read_json_object(folder / CONFIG) if is_folder(folder) else None
    if not config or config.get("library_name") != LIBRARY:
        return None
    file = read_weight_file(folder / WEIGHTS)
    _check(folder, config, _FIELDS)
    _check(folder, config["weights"], _ORIGIN_FIELDS)
    try:
        variables = unflatten_dict(file.arrays, sep="/")
    except (TypeError, ValueError) as error:  # one name is a part of another
        raise unusable(folder, f"names of {WEIGHTS}: {error}") from None
    return HubFolder(folder, config, variables, file.files)


def unusable(folder: Path, reason: object) -> UserError:
    """Returns the error about a hub folder with a damaged description."""
    return UserError(
        f"{folder / CONFIG} cannot be used ({reason}): download it again, or use the version that "
        "wrote it"
    )


def _check(folder: Path, values: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        if name not in values:
            raise unusable(folder, f"it lacks {name!r}")
        if not isinstance(values[name], kind):
            raise unusable(folder, f"{name!r} must be {_KINDS[kind]}; got {values[name]!r}")
