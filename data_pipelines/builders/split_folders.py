"""Datasets whose images and label PNGs lie in one folder per split, with equal names."""

from collections.abc import Mapping
from dataclasses import dataclass

from data_pipelines.builders.builder import (
    Item,
    SegmentationBuilder,
    count_others,
    wrong_downloads_error,
)
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads


@dataclass(frozen=True, kw_only=True)
class SplitFoldersBuilder(SegmentationBuilder):
    """Images with labels of the same name.

    Attributes:
      images: regular expression of the paths of images, with the groups `split` and `name`.
      labels: regular expression of the paths of labels, with the same groups.
      splits: split name for each value of the group `split`.
      expected: the files that the downloads must contain, for error messages.
    """

    images: str
    labels: str
    splits: Mapping[str, str]
    expected: str

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        images, labels = (
            {(match["split"], match["name"]): match[0] for match in downloads.match(pattern)}
            for pattern in (self.images, self.labels)
        )
        if not (images and labels):
            raise wrong_downloads_error(downloads, self.expected)
        if unpaired := sorted(images.keys() ^ labels.keys()):
            key = unpaired[0]
            path, missing = (images[key], "label") if key in images else (labels[key], "image")
            raise DataError(
                f"{path} has no {missing} in {downloads.source}{count_others(unpaired)}. Check that"
                f" {self.expected} are present and complete."
            )
        splits: dict[str, list[Item]] = {}
        for folder, split in self.splits.items():
            keys = sorted(key for key in images if key[0] == folder)
            if keys:
                splits[split] = [Item(key[1], images[key], labels[key]) for key in keys]
        return splits
