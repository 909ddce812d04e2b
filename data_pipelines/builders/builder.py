"""Interface of dataset builders: which files they need, and the records they make of them."""

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
from data_pipelines.sources.image_checks import check_label_size
from gsto_jax.image_files import Decoded, DecodeOptions

Example = dict[str, Any]
_PNG_COLOR_TYPE = 25  # offset of the color type in a PNG
_PNG_PALETTE = 3


@dataclass(frozen=True)
class Item:
    """The downloaded files of one record.

    Attributes:
      name: name of the record, unique in its split; results are saved under it.
      image: path of the image in the downloads.
      label: path of the label; "": none.
      extra: further paths and values of the dataset.
    """

    name: str
    image: str
    label: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Builder(ABC):
    """Makes the records of a dataset from its downloads.

    Attributes:
      name: name of the dataset.
      homepage: official site.
      counts: number of published examples per split.
      unit: unit of `counts`: "images" or "persons".
      shard_size: records per file.
      storages: supported storages, see `data_pipelines.config.STORAGES`.
      decode_options: how image files are decoded, for tiles and for checks.
    """

    name: str
    homepage: str
    counts: Mapping[str, int]
    unit: str = "images"
    shard_size: int
    storages: tuple[str, ...] = tuple(STORAGES)
    decode_options: DecodeOptions = field(default_factory=DecodeOptions)

    @abstractmethod
    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """Returns the items of each split, in order. Raises DataError for wrong downloads."""

    @abstractmethod
    def features(self, storage: str) -> dict[str, str]:
        """Returns the type of each feature: png, jpeg, label, instance, text, bytes or int."""

    @abstractmethod
    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """Reads, checks and encodes a record. Raises DataError if it is invalid."""

    def count(self, items: Sequence[Item]) -> int:
        """Returns the number of examples, in `unit`, of some items."""
        return len(items)

    def describe_incomplete(self, counts: Mapping[str, int]) -> str:
        """Describes how `counts` differ from the published ones; "" if they do not."""
        differences = [
            f"{split} has {counts.get(split, 0)} of {published}"
            for split, published in self.counts.items()
            if counts.get(split, 0) != published
        ]
        return f"{'; '.join(differences)} {self.unit}" if differences else ""

    def fingerprint(self, item: Item) -> str:
        """Returns text that changes when an item changes, without reading its files."""
        return item.name

    def shared_metadata(self, items: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
        """Returns the option-dependent metadata shared by all records, as plain values."""
        return {}

    def describe_conflict(self, shared_metadata: Mapping[str, Any]) -> str:
        """Describes how the metadata of an existing dataset differ from the options; else ""."""
        return ""

    def side_files(self, items: Mapping[str, Sequence[Item]]) -> dict[str, str]:
        """Returns names and texts of files to write beside the records."""
        return {}


@dataclass(frozen=True, kw_only=True)
class SegmentationBuilder(Builder):
    """Base of the builders of images with label maps.

    Attributes:
      image_format: "png" or "jpeg".
      instances: whether records hold instance ids.
    """

    image_format: str
    instances: bool = False

    def features(self, storage: str) -> dict[str, str]:
        """See `Builder.features`."""
        tiled = storage == "tiles"
        features = {
            "name": "text",
            "image": "bytes" if tiled else self.image_format,
            "label": "bytes" if tiled else "label",
        }
        return features | ({"instance": "instance"} if self.instances else {})

    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """See `Builder.example`."""
        image = downloads.read(item.image)
        verify_image(image, item.image)
        decoded = decode_image(image, item.image, self.decode_options)
        ids, label = self.label(downloads, item, decoded.pixels.shape[:2])
        self._check_size(item.label, ids, item.image, decoded)
        example: Example = {"name": item.name, "image": image, "label": label}
        if storage == "tiles":
            example |= {"image": encode_tiles(decoded.pixels), "label": encode_tiles(ids)}
        if self.instances:
            if path := item.extra.get("instance", ""):
                example["instance"] = downloads.read(path)
                instances = decode_label(example["instance"], path, self.decode_options)
                self._check_size(path, instances, item.image, decoded)
            else:
                example["instance"] = encode_png(np.zeros_like(ids, np.uint16))
        return example

    def label(
        self, downloads: Downloads, item: Item, size: tuple[int, int]
    ) -> tuple[np.ndarray, bytes]:
        """Returns a label as ids `h w` uint8 and as a gray PNG; `size` is (h, w) of its image."""
        data = downloads.read(item.label)
        ids = decode_label(data, item.label, self.decode_options)
        if ids.dtype != np.uint8:
            raise DataError(f"{item.label} must contain 8-bit ids; got {ids.dtype}.")
        # Other readers of the records would convert the indices of a palette to colors.
        return ids, encode_png(ids) if _has_palette(data) else data

    def _check_size(
        self, label_name: str, label: np.ndarray, image_name: str, decoded: Decoded
    ) -> None:
        options = self.decode_options
        if issue := check_label_size(image_name, decoded, options, label_name, label):
            raise DataError(f"{issue}.")


def _has_palette(data: bytes) -> bool:
    return data.startswith(b"\x89PNG") and data[_PNG_COLOR_TYPE] == _PNG_PALETTE


def encode_png(ids: np.ndarray) -> bytes:
    """Encodes ids `h w` as a PNG."""
    return cv2.imencode(".png", ids)[1].tobytes()


def count_others(names: Sequence[Any]) -> str:
    """Returns the number of further items with a missing file, in parentheses; "" for none."""
    return f" (and {len(names) - 1} more lack a file)" if len(names) > 1 else ""


def wrong_downloads_error(downloads: Downloads, expected: str) -> DataError:
    """Returns the error for a folder that does not contain the expected files."""
    return DataError(
        f"{downloads.source} is not the download: it must contain {expected}; got"
        f" {downloads.describe()}."
    )
