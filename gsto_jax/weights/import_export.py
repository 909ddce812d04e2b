"""Loads variables from weight files and writes weight files."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write
from gsto_jax.storage import to_path
from gsto_jax.weights.conversion import (
    Groups,
    LoadResult,
    Variables,
    from_state_dict,
    to_state_dict,
)
from gsto_jax.weights.coverage import coverage_lines
from gsto_jax.weights.files import WEIGHT_WRITERS, read_weight_file
from gsto_jax.weights.formats import WeightFormat, detect_format
from gsto_jax.weights.prefixes import AUTO, LocatedNetwork, locate_network
from gsto_jax.weights.transfer import transfer

_COLLECTIONS = ("params/", "batch_stats/")


@dataclass(frozen=True)
class ImportedWeights:
    """Variables loaded from a weight file."""

    path: Path  # of the file, or of the index of a sharded one
    sha256: str  # of the file, or of the index and its shards in order
    weight_format: WeightFormat | None  # None: variables of this package by path
    network: LocatedNetwork
    result: LoadResult

    @property
    def format_name(self) -> str:
        """Name of the format."""
        return self.weight_format.name if self.weight_format else "gsto_jax"

    @property
    def variables(self) -> dict[str, Any]:
        """Variables of the network."""
        return self.result.variables

    @property
    def unused(self) -> Groups:
        """Keys of the file that were not loaded, by module or dictionary."""
        return {**self.result.unused, **self.network.unused}

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about the network in the file and about converted arrays."""
        return (*self.network.notes, *self.result.notes)

    @property
    def summary(self) -> str:
        """Lines of text that list the loaded, newly initialized and unused arrays."""
        result = self.result
        lines = [
            f"{result.num_loaded} of {result.num_arrays} arrays from {self.path} "
            f"({self.format_name})",
            *(f"  note         {note}" for note in self.notes),
            *coverage_lines(result, self.unused),
        ]
        return "\n".join(lines)

    @property
    def record(self) -> dict[str, Any]:
        """Everything but the variables, as JSON values."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "format": self.format_name,
            "prefix": self.network.prefix,
            "notes": list(self.notes),
            **self.result.record,
            "unused": dict(self.unused),
        }


def import_weights(
    path: str | Path,
    variables: Variables,
    weight_format: WeightFormat | None = None,
    prefix: str = AUTO,
) -> ImportedWeights:
    """Loads the variables of a network from a weight file.

    The file holds a state dict of another implementation, or the variables of this package by path,
    as in a hub folder.

    Args:
      path: File or folder; see `read_weight_file`.
      variables: Variables of the network. Optional arrays that the file lacks keep their values.
      weight_format: Format of the file; detected from its keys if None.
      prefix: Prefix of the network's keys, to choose among several networks in the file.

    Raises:
      UserError: The file cannot be read, or does not fit the network.

    Example:
      >>> variables = initial_variables(model, seed=0)
      >>> imported = import_weights("hrnetv2_w48.pth", variables)
      >>> print(imported.summary)
      >>> model.apply(imported.variables, image)
    """
    file = read_weight_file(path)
    path = file.files[0]
    try:
        if all(key.startswith(_COLLECTIONS) for key in file.arrays):
            if prefix not in (AUTO, ""):
                raise UserError(
                    f"config.init_prefix must be {AUTO!r} for variables of this package; "
                    f"got {prefix!r}"
                )
            network = LocatedNetwork(
                state_dict={}, prefix="", other_prefixes=(), unused={}, notes=()
            )
            result = transfer(unflatten_dict(file.arrays, sep="/"), variables, outputs="outputs")
        else:
            network = locate_network(file.arrays, variables, prefix)
            weight_format = weight_format or detect_format(network.state_dict)
            result = from_state_dict(network.state_dict, variables, weight_format)
    except UserError as error:
        warning = f"; {file.warning}" if file.warning else ""
        raise UserError(f"weights {path}: {error}{warning}") from None
    return ImportedWeights(
        path=path,
        sha256=sha256_of(file.files),
        weight_format=weight_format,
        network=network,
        result=result,
    )


def sha256_of(files: Sequence[Path]) -> str:
    """Returns the SHA-256 of the contents of some files in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def export_weights(path: str | Path, variables: Variables, weight_format: WeightFormat) -> int:
    """Writes the variables of a network as a PyTorch state dict.

    Args:
      path: File with a suffix of `WEIGHT_WRITERS`.
      variables: Variables of the network.
      weight_format: Format of the state dict.

    Returns:
      Number of arrays that the format omits.

    Raises:
      UserError: The suffix is unknown, or the format has no counterpart of a module.
    """
    path = to_path(path, "path")
    if path.suffix not in WEIGHT_WRITERS:
        raise UserError(f"weights {path}: the suffix must be one of {', '.join(WEIGHT_WRITERS)}")
    state_dict = to_state_dict(variables, weight_format)
    with atomic_write(path) as temporary_path:
        WEIGHT_WRITERS[path.suffix](temporary_path, state_dict)
    return sum(weight_format.omits(path[1:]) for path in flatten_dict(dict(variables)))
