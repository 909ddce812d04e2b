"""LIP (Look Into Person), single person: images, parsing PNGs and id lists."""

from dataclasses import dataclass
from functools import partial

from data_pipelines.builders.builder import (
    Item,
    SegmentationBuilder,
    count_others,
    wrong_downloads_error,
)
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads


@dataclass(frozen=True)
class LIPBuilder(SegmentationBuilder):
    """Images with labels of 20 classes."""

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        images, labels = (
            {(match["split"], match["name"]): match[0] for match in downloads.match(pattern)}
            for pattern in (
                r"(?P<split>train|val)_images/(?P<name>[^/]+)\.jpg",
                r"(?P<split>train|val)_segmentations/(?P<name>[^/]+)\.png",
            )
        )
        splits: dict[str, list[Item]] = {}
        for split, (path, names) in _read_lists(downloads).items():
            keys = [(split, name) for name in names]
            missing = [key[1] for key in keys if key not in images or key not in labels]
            if missing:
                name = missing[0]
                has_image = (split, name) in images
                file = f"segmentations/{name}.png" if has_image else f"images/{name}.jpg"
                archive = "TrainVal_parsing_annotations" if has_image else "TrainVal_images"
                raise DataError(
                    f"{path} lists {name}, but {downloads.source} has no {split}_{file}"
                    f"{count_others(missing)}. Check that {archive}.zip is present and complete."
                )
            splits[split] = [Item(key[1], images[key], labels[key]) for key in keys]
        if not splits:
            raise wrong_downloads_error(
                downloads,
                "TrainVal_images.zip, TrainVal_parsing_annotations.zip, train_id.txt and"
                " val_id.txt, or the folders of them (train_images/, ...)",
            )
        return splits


def _read_lists(downloads: Downloads) -> dict[str, tuple[str, list[str]]]:
    """Returns path and names of each split's list; equal copies count once."""
    lists: dict[str, tuple[str, list[str]]] = {}
    for match in downloads.match(r"(?P<split>train|val)_id\.txt"):
        lines = map(str.strip, downloads.read_text(match[0]).splitlines())
        names = [line for line in lines if line]
        first_path, first_names = lists.setdefault(match["split"], (match[0], names))
        if first_names != names:
            raise DataError(
                f"{first_path} and {match[0]} list different images; remove one of them."
            )
    return lists


lip = partial(
    LIPBuilder,
    name="lip",
    homepage="http://sysu-hcp.net/lip",
    counts={"train": 30462, "val": 10000},
    image_format="jpeg",
    shard_size=1024,
)
