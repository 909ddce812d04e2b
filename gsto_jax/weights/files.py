"""Networks from files of other implementations, and files for them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.weights.formats import (
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    POSE_FORMAT,
    RESNET_FORMAT,
    Format,
    format_of,
)
from gsto_jax.weights.reference import Match, Variables, match, to_reference
from gsto_jax.weights.safetensors_file import read_safetensors, write_safetensors
from gsto_jax.weights.torch_file import read_torch, write_torch
from gsto_jax.whole_file import replacing

SUFFIXES: Mapping[str, Callable[[Path, Mapping[str, np.ndarray]], None]] = {
    ".safetensors": write_safetensors,
    ".pth": write_torch,
}
"""What files of weights may be called when they are written, and how that is done."""
_WRAPPERS = ("state_dict", "model")


@dataclass(frozen=True)
class Imported:
    """A network's variables out of a file.

    Attributes:
      path: of the file.
      sha256: of its bytes, in hexadecimal.
      form: which kind it is.
      match: the variables, and how many of them came from it.
    """

    path: Path
    sha256: str
    form: Format
    match: Match

    @property
    def coverage(self) -> str:
        """How much of the network came from the file, for people to read."""
        fresh = ", ".join(f"{name} ({count})" for name, count in self.match.fresh.items())
        return (
            f"{self.match.loaded} of {self.match.total} arrays from {self.path} "
            f"({self.form.name}); fresh: {fresh or 'none'}"
        )

    @property
    def record(self) -> dict[str, Any]:
        """All of it but the variables, as plain values."""
        found = self.match
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "format": self.form.name,
            "loaded": found.loaded,
            "total": found.total,
            "fresh": dict(found.fresh),
        }


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays by name out of a `.safetensors` file, or of what `torch.save` wrote.

    A state inside a training checkpoint, as "state_dict" or "model", is found there.

    Raises:
      UserError: there is no such file, it cannot be read, or it holds no state.
    """
    path = Path(path).expanduser().absolute()
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"weights {path}: the file {problem}: give a .pth or a .safetensors file")
    try:
        state = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    except OSError as error:
        raise UserError(f"weights {path} cannot be read ({error.strerror})") from None
    for name in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, and not a state_dict")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            kind = type(value).__name__
            raise UserError(f"{path} holds no state_dict: {key} is a {kind}, and not a tensor")
    return state


def import_weights(path: str | Path, variables: Variables, form: Format | None = None) -> Imported:
    """Fills a network's variables from a file.

    Args:
      path: a `.pth` or `.safetensors` file.
      variables: of the network; what the file lacks, and its kind may, keeps its values.
      form: which kind of file it is; None to tell by its keys.

    Raises:
      UserError: the file cannot be read, or does not fit the network; names the keys.

    Example:
      >>> variables = initial_variables(model, seed=0)
      >>> found = import_weights("hrnetv2_w48.pth", variables)
      >>> print(found.coverage)
      >>> model.apply(found.match.variables, image)
    """
    path = Path(path).expanduser().absolute()
    state = read_state(path)
    try:
        form = form or format_of(state)
        found = match(state, variables, form)
    except UserError as error:
        raise UserError(f"weights {path}: {error}") from None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Imported(path, digest, form, found)


def export_weights(path: str | Path, variables: Variables, form: Format) -> int:
    """Writes a network's variables under the keys of another implementation.

    Args:
      path: a file, whose suffix (`SUFFIXES`) says how.
      variables: of the network.
      form: whose keys.

    Returns:
      How many arrays were left out, which only partial forms do.

    Raises:
      UserError: another suffix, or the other implementation has nothing like a module of ours.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"weights {path}: name a file that ends in {' or '.join(SUFFIXES)}")
    state = to_reference(variables, form)
    with replacing(path) as part:
        SUFFIXES[path.suffix](part, state)
    return sum(form.leaves_out(path[1:]) for path in flatten_dict(dict(variables)))


def format_for(config: ModelConfig) -> Format:
    """The format whose networks are those that the settings describe, or begin with one.

    Raises:
      UserError: there is none.
    """
    if config.attention != "none":
        raise UserError(
            "no other implementation has names for the gates of Table 3, so their weights cannot "
            "be exported: export the format jax"
        )
    if config.context != "none":
        return RESNET_FORMAT
    if config.gsto.has_gates or set(config.gtm) != {"none"}:
        return GSTO_FORMAT
    return POSE_FORMAT if config.head == "v1" else HRNET_FORMAT


def upsampling_note(form: Format, config: ModelConfig) -> str | None:
    """What to know of a network that goes on from weights that were trained otherwise."""
    if form is not IMAGENET_FORMAT or config.upsample == "nearest":
        return None
    return (
        "note: ImageNet networks were trained with nearest upsampling in their fusions, and "
        f"config.model.upsample is {config.upsample!r} here, as it is in segmentation networks"
    )
