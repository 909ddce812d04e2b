"""Replaces tables of documents by those that a benchmark computes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def fill_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Replaces tables of a page, which stand between `<!-- name -->` and `<!-- end -->`.

    Args:
      page: Markdown file.
      tables: Markdown by name.

    Raises:
      ValueError: the page does not have a name exactly once.
    """
    text = page.read_text()
    for name, table in tables.items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"{page} must have one table <!-- {name} -->; got {count}")
    page.write_text(text)


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heading, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(heading)}", *lines[1:]])
