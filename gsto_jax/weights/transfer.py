"""Networks from files of other implementations, and files for them."""

import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from gsto_jax.errors import UserError
from gsto_jax.files import atomic_write
from gsto_jax.weights.files import SUFFIXES, read_checkpoint
from gsto_jax.weights.formats import Format, format_of
from gsto_jax.weights.prefixes import AUTO, Located, locate
from gsto_jax.weights.reference import Match, Names, Variables, match, to_reference

_WIDTH = 100  # letters of a line in the report, and of a name


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
        loaded = f"  loaded    {', '.join(counts) or 'none'}"
        lines = [
            f"{self.match.loaded} of {self.match.total} arrays from {self.path} ({self.form.name})",
            *(f"  note      {note}" for note in self.located.notes),
            *textwrap.wrap(loaded, _WIDTH, subsequent_indent=" " * 12),
            *(f"  fresh     {_group(*group)}" for group in self.match.fresh_names.items()),
            *(f"  left out  {_group(*group)}" for group in self.left_out.items()),
        ]
        return "\n".join(lines if self.match.fresh_names else [*lines, "  fresh     none"])

    @property
    def record(self) -> dict[str, Any]:
        """All of it but the variables, as plain values."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "format": self.form.name,
            "prefix": self.located.prefix,
            "notes": [*self.located.notes],
            "loaded": self.match.loaded,
            "total": self.match.total,
            "loaded_names": dict(self.match.loaded_names),
            "fresh": dict(self.match.fresh_names),
            "left_out": dict(self.left_out),
        }


def _group(part: str, names: list[str]) -> str:
    """Returns the size of a group and so many of its names as fit in a line."""
    text = f"{part[:_WIDTH]} ({len(names)}): {names[0][:_WIDTH]}"
    for name in names[1:]:
        if len(text) + len(name) >= _WIDTH - 18:
            return f"{text} ..."
        text += f", {name}"
    return text


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
    checkpoint = read_checkpoint(path)
    path = checkpoint.files[0]
    try:
        located = locate(checkpoint.arrays, variables, prefix)
        form = form or format_of(located.state)
        filled = match(located.state, variables, form)
    except UserError as error:
        refusal = f"; {checkpoint.refusal}" if checkpoint.refusal else ""
        raise UserError(f"weights {path}: {error}{refusal}") from None
    digest = hashlib.sha256()
    for file in checkpoint.files:
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
    with atomic_write(path) as part:
        SUFFIXES[path.suffix](part, state)
    return sum(form.leaves_out(path[1:]) for path in flatten_dict(dict(variables)))
