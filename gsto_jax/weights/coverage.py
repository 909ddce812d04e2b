"""Describes what was loaded into a network, what starts fresh, and what was not used."""

import textwrap

from gsto_jax.weights.conversion import Groups, LoadResult, layer_of

_MAX_LINE = 100  # characters of a line of the summary, and of a name
_MAX_LAYERS = 10  # that are all named


def coverage_lines(result: LoadResult, unused: Groups) -> list[str]:
    """Returns lines of text that list the loaded, newly initialized and unused arrays.

    Args:
      result: Loaded variables.
      unused: Names of the arrays that were not used, by module or dictionary.
    """
    counts = ", ".join(f"{section} ({len(names)})" for section, names in result.loaded.items())
    lines = _wrap(f"  loaded       {counts}") if counts else []
    for group, names in result.initialized.items():
        layers = list(dict.fromkeys(layer_of(tuple(name.split("/"))) for name in names))
        if len(layers) <= _MAX_LAYERS:
            lines += _wrap(f"  initialized  {group} ({len(names)}): {', '.join(layers)}")
        else:
            lines.append(f"  initialized  {_shorten(group, len(names), layers)}")
    if not result.initialized:
        lines.append("  initialized  none")
    unused_lines = [
        f"  unused       {_shorten(group, len(names), names)}" for group, names in unused.items()
    ]
    return lines + unused_lines


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(
        text, _MAX_LINE, subsequent_indent=" " * 15, break_long_words=False, break_on_hyphens=False
    )


def _shorten(group: str, count: int, names: list[str]) -> str:
    """Returns the size of a group and as many of its names as fit in a line."""
    text = f"{group[:_MAX_LINE]} ({count}): {names[0][:_MAX_LINE]}"
    for name in names[1:]:
        if len(text) + len(name) >= _MAX_LINE - 21:
            return f"{text} ..."
        text += f", {name}"
    return text
