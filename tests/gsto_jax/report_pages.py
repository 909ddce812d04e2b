"""Parser of report pages, and readers of the files of a run."""

import csv
import shutil
from html.parser import HTMLParser

import pytest

from gsto_jax import UserError
from gsto_jax.report import write_report

VOID = {"meta", "link", "img", "br", "wbr"}


class Page(HTMLParser):
    """Parsed page: tables by id as rows of cell texts, all text, and all tags with attributes."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.words, self.tags, self.open = {}, [], [], []
        self.html = path.read_text()
        self.feed(self.html)
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(dict(attrs).get("id"), [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.table[-1][-1] += data.strip()

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def percent(text, digits=2):
    return "–" if text in ("", "nan") else f"{100 * float(text):.{digits}f}"


def comparison_error(run, output, other):
    """Returns the error message of a comparison that must fail."""
    with pytest.raises(UserError) as error:
        write_report(run, output, other)
    return str(error.value)
