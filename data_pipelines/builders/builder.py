"""What a dataset's builder is: which files it needs, and the records that it makes of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from data_pipelines.config import STORAGES
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.images import decode_image, decode_label, verify_image
from data_pipelines.files.tiles import encode_tiles
from data_pipelines.sources.image_audit import size_problem
from gsto_jax.image_files import Decoded, DecodeOptions

Example = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One record to be made.

    Attributes:
        name: unique in its split; results are saved under it.
        image: path of the image in the downloads.
        label: path of the label; "" where there is none.
        more: other paths and values, by what they are.
    """

    name: str
    image: str
    label: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Builder(ABC):
    """Makes the records of a dataset.

    Attributes:
        name: of the dataset.
        homepage: where it is published.
        counts: of the published records by split.
        counted: what is counted: "images", "persons".
        shard_size: records in a file.
        storages: how images may be stored.
        rule: how image files become RGB, where they are decoded for tiles or to be checked.
    """

    name: str
    homepage: str
    counts: Mapping[str, int]
    counted: str = "images"
    shard_size: int
    storages: tuple[str, ...] = STORAGES
    rule: DecodeOptions = field(default_factory=DecodeOptions)

    @abstractmethod
    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """Returns the records of each split, in order. Raises DataError in a wrong folder."""

    @abstractmethod
    def features(self, storage: str) -> dict[str, str]:
        """Returns the kind of every feature: png, jpeg, label, instance, text, bytes or int."""

    @abstractmethod
    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """Reads, checks and encodes a record. Raises DataError if it is wrong."""

    def count(self, items: Sequence[Item]) -> int:
        """Returns how many of `counted` so many records hold."""
        return len(items)

    def content(self, item: Item) -> str:
        """Returns what of a record is known before its files are read, to tell it from others."""
        return item.name

    def shared_metadata(self, items: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
        """Returns what all records share and a setting decides, as plain values."""
        return {}

    def conflict(self, shared_metadata: Mapping[str, Any]) -> str:
        """Returns how a finished dataset differs from the settings, in words; "" if it fits.

        Args:
          shared_metadata: what the method of that name returned when it was built.
        """
        return ""

    def side_files(self, items: Mapping[str, Sequence[Item]]) -> dict[str, str]:
        """Returns the text of files to write beside the records, by name."""
        return {}


@dataclass(frozen=True, kw_only=True)
class SegmentationBuilder(Builder):
    """The part that all datasets of images and label maps share.

    Attributes:
        image_format: "png" or "jpeg".
        instances: whether records hold instance ids too.
    """

    image_format: str
    instances: bool = False

    def features(self, storage: str) -> dict[str, str]:
        """See `Builder.features`."""
        tiled = storage == "tiles"
        kinds = {
            "name": "text",
            "image": "bytes" if tiled else self.image_format,
            "label": "bytes" if tiled else "label",
        }
        return kinds | ({"instance": "instance"} if self.instances else {})

    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """See `Builder.example`."""
        image_bytes = downloads.read(item.image)
        verify_image(image_bytes, item.image)
        decoded = decode_image(image_bytes, item.image, self.rule)
        image = decoded.pixels
        raw, label_bytes = self.label(downloads, item, image.shape[:2])
        self._check_size(item.label, raw, item.image, decoded)
        made: Example = {"name": item.name}
        if storage == "tiles":
            made |= {"image": encode_tiles(image), "label": encode_tiles(raw)}
        else:
            made |= {"image": image_bytes, "label": label_bytes}
        if self.instances:
            path = item.more.get("instance", "")
            if path:
                made["instance"] = downloads.read(path)
                instances = decode_label(made["instance"], path, self.rule)
                self._check_size(path, instances, item.image, decoded)
            else:
                made["instance"] = encode_png(np.zeros_like(raw, np.uint16))
        return made

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """Returns a label's ids, `h w` uint8, and the same as a PNG."""
        data = downloads.read(item.label)
        raw = decode_label(data, item.label, self.rule)
        if raw.dtype != np.uint8:
            raise DataError(f"{item.label} holds ids of 16 bits; ids up to 255 are expected.")
        return raw, data

    def _check_size(
        self, label_name: str, label: np.ndarray, image_name: str, decoded: Decoded
    ) -> None:
        size = (label.shape[0], label.shape[1])
        if problem := size_problem(image_name, decoded, self.rule, label_name, size):
            raise DataError(f"{problem}.")


def encode_png(ids: np.ndarray) -> bytes:
    """Returns ids as a PNG."""
    return cv2.imencode(".png", ids)[1].tobytes()


def and_more(lacking: Sequence[str]) -> str:
    """Returns how many records a message about the first one stands for, in brackets."""
    return f" (and {len(lacking) - 1} more lack a file)" if len(lacking) > 1 else ""


def wrong_downloads_error(downloads: Downloads, wanted: str) -> DataError:
    """The error for a folder that holds something else."""
    return DataError(
        f"{downloads.source} is not the download: looked for {wanted}; found {downloads.describe()}."
    )
