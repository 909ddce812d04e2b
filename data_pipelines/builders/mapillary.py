"""Mapillary Vistas with the 65 classes of version 1.2, from the zip of version 1 or 2."""

from dataclasses import dataclass
from functools import partial

from data_pipelines.builders.builder import Item
from data_pipelines.builders.split_folders import SplitFoldersBuilder
from data_pipelines.class_tables.mapillary import MAPILLARY
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads

_SPLIT = r"(?P<split>training|validation)"
_LABEL_NAMES = (*MAPILLARY.names, "Unlabeled")


@dataclass(frozen=True, kw_only=True)
class MapillaryBuilder(SplitFoldersBuilder):
    """Builder of Mapillary Vistas, which checks the class names in the dataset's JSON file."""

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`. Raises DataError if the JSON file has other classes."""
        items = super().items(downloads)
        for match in downloads.match(r"config(?:_v1\.2)?\.json"):
            config = downloads.read_json(match[0])
            try:
                names = tuple(label["readable"] for label in config["labels"])
            except (LookupError, TypeError):
                continue  # of another program
            if names != _LABEL_NAMES:
                raise DataError(
                    f"{match[0]} must list the {len(_LABEL_NAMES)} labels of Mapillary Vistas 1.2;"
                    f" got {len(names)}, of which the last is {names[-1:]}. Give the labels of"
                    " version 1.2."
                )
        return items


mapillary = partial(
    MapillaryBuilder,
    name="mapillary",
    homepage="https://www.mapillary.com/dataset/vistas",
    counts={"train": 18000, "val": 2000},
    image_format="jpeg",
    shard_size=128,
    images=rf"{_SPLIT}/images/(?P<name>[^/]+)\.jpg",
    labels=rf"{_SPLIT}/(?:v1\.2/)?labels/(?P<name>[^/]+)\.png",
    splits={"training": "train", "validation": "val"},
    expected="the folders training/ and validation/ of Mapillary Vistas 1.2 or 2.0",
)
