"""Writes config files as a person would: options in groups, with comments.

Imports no JAX.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_WIDTH = 100
_TEMPLATE = '''\
"""{docstring}"""

from ml_collections import ConfigDict

from configs import base


def {function}(arg: str | None = None) -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
{body}
    return base.apply_arguments(config, arg)
'''


@dataclass(frozen=True)
class Group:
    """Options that belong together.

    Attributes:
      options: values by dotted name, such as "train.steps".
      comment: comment above them.
      notes: by name of the option, a comment for its line, or one for each element of a tuple.
    """

    options: Mapping[str, Any]
    comment: str = ""
    notes: Mapping[str, str | Sequence[str]] = field(default_factory=dict)


def config_text(summary: str, paragraphs: Sequence[str], groups: Sequence[Group]) -> str:
    """Returns the text of a config file, formatted as `ruff format` does.

    Args:
      summary: first line of its docstring.
      paragraphs: the rest of the docstring; indented lines are not wrapped.
      groups: the options.
    """
    docstring = "\n\n".join([summary, *map(_wrap, paragraphs)])
    docstring = docstring.replace("\\", "\\\\").replace('"""', "'''")
    # Python 3.13 refuses docstrings that are not UTF-8, even if escaped.
    docstring = docstring.encode("utf-8", "replace").decode()
    if len(paragraphs):
        docstring += "\n"
    body = "\n\n".join("\n".join(_group_lines(group)) for group in groups)
    return _TEMPLATE.format(
        # Spelled out in the template, it would make this file look like a config.
        function="get_config",
        docstring=docstring,
        body=textwrap.indent(body, "    "),
    )


def _wrap(paragraph: str) -> str:
    lines = paragraph.splitlines()
    wrapped = [
        [line]
        if line.startswith("    ")
        else textwrap.wrap(
            line,
            _WIDTH,
            subsequent_indent="  " * line.startswith("- "),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines
    ]
    return "\n".join(line for part in wrapped for line in part)


def _group_lines(group: Group) -> list[str]:
    comment = textwrap.wrap(group.comment, _WIDTH - 6, break_long_words=False)
    lines = [f"# {_encodable(line)}" for line in comment]
    for name, value in group.options.items():
        notes = group.notes.get(name, "")
        if isinstance(notes, str):
            suffix = f"  # {_encodable(notes)}" if notes else ""
            lines.append(f"config.{name} = {_literal(value)}{suffix}")
            continue
        lines.append(f"config.{name} = (")
        lines += [
            f"    {_literal(item)},  # {_encodable(note)}"
            for item, note in zip(value, notes, strict=True)
        ]
        lines.append(")")
    return lines


def _literal(value: Any) -> str:
    """Returns a value in Python, with the quotes that formatters choose."""
    if isinstance(value, tuple):
        items = [_literal(item) for item in value]
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    if isinstance(value, str):
        quote = "'" if value.count('"') > value.count("'") else '"'
        text = "".join(c if c in "'\"" else repr(c)[1:-1] for c in value)
        return quote + text.replace(quote, f"\\{quote}") + quote
    return repr(value)


def _encodable(text: str) -> str:
    """Escapes the bytes of file names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
