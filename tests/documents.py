"""Blocks of code, commands and links of the documents."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a document."""

    page: str
    line: int
    language: str
    text: str


def blocks(language=None):
    """Returns the blocks of all documents, or those of one language."""
    result = []
    for path in PAGES:
        content = path.read_text()
        for match in _FENCE.finditer(content):
            line = content.count("\n", 0, match.start()) + 1
            text = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
            block = Block(name(path), line, match[2].strip(), text)
            if language in (None, block.language):
                result.append(block)
    return result


def commands(text):
    """Returns the commands of a bash block; one may span several lines."""
    result, pending = [], ""
    for line in text.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation goes on
            pending += "\n"
            continue
        if words:
            result.append(shlex.join(words))
        pending = ""
    return result


def name(path):
    """Returns a path relative to the repository."""
    return path.relative_to(ROOT).as_posix()


def anchors(path):
    """Returns the anchors of a document's headings."""
    text = _FENCE.sub("", path.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    cleaned = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in cleaned}
