"""LIP (Look Into Person), single person: images, parsing PNGs and id lists."""

from dataclasses import dataclass
from functools import partial

from data_pipelines.builders.builder import (
    Item,
    SegmentationBuilder,
    and_more,
    wrong_downloads_error,
)
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads


@dataclass(frozen=True)
class LIPBuilder(SegmentationBuilder):
    """Labels of 20 classes. Those of mirrored images are derived, by swapping left and right."""

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        found = {
            (kind, match["split"], match["name"]): match[0]
            for kind, pattern in (
                ("image", r"(?P<split>train|val)_images/(?P<name>[^/]+)\.jpg"),
                ("label", r"(?P<split>train|val)_segmentations/(?P<name>[^/]+)\.png"),
            )
            for match in downloads.match(pattern)
        }
        splits: dict[str, list[Item]] = {}
        for split, (path, names) in _lists(downloads).items():
            files = {
                name: (found.get(("image", split, name), ""), found.get(("label", split, name), ""))
                for name in names
            }
            lacking = [name for name, pair in files.items() if not all(pair)]
            if lacking:
                name, (image, _) = lacking[0], files[lacking[0]]
                missing = f"segmentations/{name}.png" if image else f"images/{name}.jpg"
                archive = "TrainVal_parsing_annotations" if image else "TrainVal_images"
                raise DataError(
                    f"{path} lists {name}, but {downloads.source} has no {split}_{missing}"
                    f"{and_more(lacking)}: is {archive}.zip there, and whole?"
                )
            splits[split] = [Item(name, *files[name]) for name in names]
        if not splits:
            raise wrong_downloads_error(
                downloads,
                "TrainVal_images.zip, TrainVal_parsing_annotations.zip, train_id.txt and"
                " val_id.txt, or the folders out of them (train_images/, ...)",
            )
        return splits


def _lists(downloads: Downloads) -> dict[str, tuple[str, list[str]]]:
    """Path and names of each split's list; several copies of one are one."""
    lists: dict[str, tuple[str, list[str]]] = {}
    for listed in downloads.match(r"(?P<split>train|val)_id\.txt"):
        lines = map(str.strip, downloads.read_text(listed[0]).splitlines())
        names = [line for line in lines if line]
        path, known = lists.setdefault(listed["split"], (listed[0], names))
        if known != names:
            raise DataError(f"{path} and {listed[0]} list different images; remove one of them.")
    return lists


lip = partial(
    LIPBuilder,
    name="lip",
    homepage="http://sysu-hcp.net/lip",
    counts={"train": 30462, "val": 10000},
    image_format="jpeg",
    shard_size=1024,
)
