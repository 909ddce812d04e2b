"""Networks from files of other implementations, and files for them."""

import hashlib
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from gsto_jax.config import ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.files import replacing
from gsto_jax.weights.checkpoint_tree import flatten_tree
from gsto_jax.weights.formats import (
    GSTO_FORMAT,
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    POSE_FORMAT,
    RESNET_FORMAT,
    Format,
    format_of,
)
from gsto_jax.weights.prefixes import AUTO, Located, locate
from gsto_jax.weights.reference import Match, Names, Variables, match, to_reference
from gsto_jax.weights.safetensors_file import read_safetensors, write_safetensors
from gsto_jax.weights.shards import INDEX, read_shards, weights_file
from gsto_jax.weights.torch_file import Unread, read_torch, write_torch

SUFFIXES: Mapping[str, Callable[[Path, Mapping[str, np.ndarray]], None]] = {
    ".safetensors": write_safetensors,
    ".pth": write_torch,
}
"""What files of weights may be called when they are written, and how that is done."""
_WIDTH = 100  # letters of a line in the report
_LONGEST = 100  # letters of a name in the report


@dataclass(frozen=True)
class Imported:
    """A network's variables out of a file.

    Attributes:
      path: of the file, or of the index of several.
      sha256: of its bytes, in hexadecimal; of an index and its shards, one behind the other.
      form: which kind it is.
      located: where in the file the network was.
      match: the variables, and how many of them came from it.
    """

    path: Path
    sha256: str
    form: Format
    located: Located
    match: Match

    @property
    def left_out(self) -> Names:
        """Keys of the file that carry nothing for the network, by what they belong to."""
        return {**self.match.left_out, **self.located.beside}

    @property
    def coverage(self) -> str:
        """How much of the network came from the file: lines of text."""
        counts = (f"{part} ({len(names)})" for part, names in self.match.loaded_names.items())
        lines = [
            f"{self.match.loaded} of {self.match.total} arrays from {self.path} ({self.form.name})",
            *(f"  note      {note}" for note in self._notes()),
            *_wrapped(f"loaded    {', '.join(counts) or 'none'}"),
        ]
        for title, groups in (("fresh", self.match.fresh_names), ("left out", self.left_out)):
            lines += [f"  {title:9} {_group(part, names)}" for part, names in groups.items()]
        if not self.match.fresh_names:
            lines.append("  fresh     none")
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        located, notes = self.located, []
        if located.prefix:
            notes.append(f"the prefix {located.prefix!r} of its keys was taken off")
        if located.wrappers:
            notes.append(f"{', '.join(located.wrappers)} inside its keys was taken out")
        if located.others:
            others = ", ".join(map(repr, located.others))
            notes.append(f"more networks lie under {others}: choose by --config.init_prefix")
        return [*notes, *located.notes]

    @property
    def record(self) -> dict[str, Any]:
        """All of it but the variables, as plain values."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "format": self.form.name,
            "prefix": self.located.prefix,
            "notes": self._notes(),
            "loaded": self.match.loaded,
            "total": self.match.total,
            "loaded_names": dict(self.match.loaded_names),
            "fresh": dict(self.match.fresh_names),
            "left_out": dict(self.left_out),
        }


def _group(part: str, names: list[str]) -> str:
    """Returns the size of a group and so many of its names as fit in a line."""
    text = f"{part[:_LONGEST]} ({len(names)}): {names[0][:_LONGEST]}"
    count = 1
    while count < len(names) and len(text) + len(names[count]) < _WIDTH - 18:
        text += f", {names[count]}"
        count += 1
    return text if count == len(names) else f"{text} ..."


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent=" " * 12)


@dataclass(frozen=True)
class _Content:
    """Arrays of a checkpoint, what was not read of it, and its files."""

    arrays: dict[str, np.ndarray]
    unread: dict[str, str]
    files: list[Path]


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint.

    Args:
      path: a `.safetensors` file, what `torch.save` wrote, a `*.index.json` beside its shards, or
        a folder that holds one of them.

    Returns:
      Arrays by name. Of nested tables, such as a training checkpoint, the names are joined:
      "state_dict.conv1.weight".

    Raises:
      UserError: there is no such file, it cannot be read, or it holds no arrays.
    """
    return _read(Path(path)).arrays


def _read(path: Path) -> _Content:
    path = weights_file(path.expanduser().absolute())
    try:
        if path.name.endswith(INDEX):
            tree, shards = read_shards(path, lambda shard: _table(shard, _read_tree(shard)))
        else:
            tree, shards = _read_tree(path), []
        arrays, unread = flatten_tree(_table(path, tree))
    except OSError as error:
        raise UserError(f"weights {path} cannot be read ({error.strerror})") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"weights {path}: {error}: it is no checkpoint") from None
    if not arrays:
        raise UserError(
            f"{path} holds no arrays: {_refusal(unread)}"
            if unread
            else f"{path} holds no state_dict: there is no tensor in it"
        )
    return _Content(arrays, unread, [path, *shards])


def _read_tree(path: Path) -> Any:
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)


def _table(path: Path, tree: Any) -> dict[Any, Any]:
    if isinstance(tree, Unread):
        raise UserError(f"{path} holds no state_dict: {_refusal({'': tree.name})}")
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, and not a state_dict")
    return tree


def _refusal(unread: Mapping[str, str]) -> str:
    """Says what was not read."""
    name, asked = next(iter(unread.items()))
    return (
        f"{name or 'it'} asks for {asked}, which no tensor needs: nothing of it was run. If you "
        "trust the file, save its state_dict alone where PyTorch is"
    )


def import_weights(
    path: str | Path, variables: Variables, form: Format | None = None, prefix: str = AUTO
) -> Imported:
    """Fills a network's variables from a file.

    Args:
      path: as of `read_state`.
      variables: of the network; what the file lacks, and its kind may, keeps its values.
      form: which kind of file it is; None to tell by its keys.
      prefix: of the network's keys; where the file holds several networks, such as averaged
        weights too, it chooses one.

    Raises:
      UserError: the file cannot be read, or does not fit the network; names the keys.

    Example:
      >>> variables = initial_variables(model, seed=0)
      >>> imported = import_weights("hrnetv2_w48.pth", variables)
      >>> print(imported.coverage)
      >>> model.apply(imported.match.variables, image)
    """
    content = _read(Path(path))
    path = content.files[0]
    try:
        located = locate(content.arrays, variables, prefix)
        form = form or format_of(located.state)
        filled = match(located.state, variables, form)
    except UserError as error:
        unread = f"; {_refusal(content.unread)}" if content.unread else ""
        raise UserError(f"weights {path}: {error}{unread}") from None
    digest = hashlib.sha256()
    for file in content.files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return Imported(path, digest.hexdigest(), form, located, filled)


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
    if config.hrnet.attention != "none":
        raise UserError(
            "no other implementation has names for the gates of Table 3, so their weights cannot "
            "be exported: export the format jax"
        )
    if config.is_context_net:
        return RESNET_FORMAT
    if config.has_gates or set(config.gates) != {"none"}:
        return GSTO_FORMAT
    return POSE_FORMAT if config.hrnet.head == "v1" else HRNET_FORMAT


def upsampling_note(form: Format, config: ModelConfig) -> str | None:
    """What to know of a network that goes on from weights that were trained otherwise."""
    kinds = {IMAGENET_FORMAT.name: "ImageNet", POSE_FORMAT.name: "HRNet's pose"}
    if form.name not in kinds or config.hrnet.upsample == "nearest":
        return None
    return (
        f"note: {kinds[form.name]} networks were trained with nearest upsampling in their fusions, "
        f"and config.model.hrnet.upsample is {config.hrnet.upsample!r} here, as it is in "
        "segmentation networks"
    )
