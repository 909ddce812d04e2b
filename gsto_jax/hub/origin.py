"""Where the weights of a run came from, their license, and its scores."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsto_jax.files import read_json_object
from gsto_jax.storage import is_remote, to_path
from gsto_jax.storage.log import open_log
from gsto_jax.weights import GSTO_FORMAT

UNKNOWN = "unknown"
LICENSES = (
    *("afl-3.0", "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-4.0"),
    *("cc0-1.0", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0", "openrail", "unlicense", UNKNOWN),
)
"""Licenses with a name of the hub's own, in lower case; others are "other" with their name."""
RELEASED_TERMS = "The authors' released GSTO-HRNet weights are for academic research only"
_MAX_PARENTS = 20


@dataclass(frozen=True)
class Origin:
    """Where weights came from.

    Attributes:
      license: their license, as the user names it; "unknown" by default.
      sources: weights that the run and its parents started from, the run's own first: file name,
        SHA-256, format and license.
    """

    license: str = UNKNOWN
    sources: tuple[Mapping[str, Any], ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The values as JSON."""
        return {"license": self.license, "sources": [dict(source) for source in self.sources]}

    @property
    def license_fields(self) -> dict[str, str]:
        """Fields `license` and `license_name` of a model card."""
        if self.license.lower() in LICENSES:
            return {"license": self.license.lower()}
        name = re.sub(r"[^a-z0-9.]+", "-", self.license.lower()).strip("-")
        return {"license": "other", "license_name": name or "other"}

    @property
    def terms(self) -> str:
        """Terms of released weights that are among the sources; "" for none."""
        released = any(source["format"] == GSTO_FORMAT.name for source in self.sources)
        return RELEASED_TERMS if released else ""

    @property
    def note(self) -> str:
        """What the user should know about the license; "" if it is named and is the user's own."""
        names = ", ".join(f"{x['file']} (license {license_of(x)})" for x in self.sources)
        terms = f". {self.terms}" if self.terms else ""
        if self.license != UNKNOWN:
            started = f"note: the weights started from {names}, whose terms hold too{terms}"
            return started if names else ""
        if names:
            return (
                f"warning: the weights started from {names}, whose terms hold too, and the card "
                f"says that their own license is unknown: name it by --license{terms}"
            )
        return "note: the card says that the license is unknown: name it by --license"


def find_origin(checkpoint: Path, license: str = "") -> Origin:
    """Returns the origin of a checkpoint's weights, from init_from.json of its run and parents.

    Args:
      checkpoint: RUN/checkpoints/STEP or RUN/best/STEP. A checkpoint elsewhere has no record.
      license: license that the user names.
    """
    sources: list[Mapping[str, Any]] = []
    run = run_of(checkpoint)
    while run is not None and len(sources) < _MAX_PARENTS:
        record = read_json_object(run / "init_from.json")
        if record is None or not isinstance(record.get("path"), str):
            break
        path = to_path(record["path"], "init_from.json")
        # Folders of this machine are not for others.
        name = str(path) if is_remote(path) else path.name
        kind = record.get("format", UNKNOWN)
        parent = run_of(path) if kind == "checkpoint" else None
        if parent is not None and not is_remote(path):
            name = f"{parent.name}, step {path.name}"
        source = {"file": name, "sha256": record.get("sha256"), "format": kind}
        sources.append(source | {"license": license_of(record)})
        sources += record.get("sources", ())  # of a hub folder
        run = parent
    return Origin(license.strip() or UNKNOWN, tuple(sources))


def license_of(source: Mapping[str, Any]) -> str:
    """Returns the license of a source; weight files and runs name none."""
    return str(source.get("license", UNKNOWN))


def run_of(checkpoint: Path) -> Path | None:
    """Returns the folder of the run that a checkpoint lies in; None elsewhere."""
    inside = checkpoint.parent.name in ("checkpoints", "best")
    return checkpoint.parent.parent if inside else None


def find_scores(checkpoint: Path) -> Mapping[str, Any] | None:
    """Returns the record of the last evaluation of a checkpoint; None without one."""
    run = run_of(checkpoint)
    if run is None:
        return None
    records = open_log(run / "evaluations.jsonl").read()
    matching = [record for record in records if record.get("step") == int(checkpoint.name)]
    return matching[-1] if matching else None
