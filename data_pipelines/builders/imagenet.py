"""ImageNet (ILSVRC2012): the official archives, or a folder for each class."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from data_pipelines.builders.builder import Builder, Example, Item, wrong_downloads_error
from data_pipelines.errors import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.images import verify_image
from data_pipelines.files.matlab import read_structs
from data_pipelines.image_class_options import folder_of
from data_pipelines.imagenet import IMAGENET

_LABELS = {folder_of(name): label for label, name in enumerate(IMAGENET)}
_WNID = r"(?P<wnid>n\d{8})"
_TRUTH = r"ILSVRC2012_validation_ground_truth\.txt"


@dataclass(frozen=True)
class ImageNetBuilder(Builder):
    """Images with a class each.

    Names of the training images contain their class; the validation images are in the folder of
    their class, or in the official archive beside the development kit, which lists the classes.
    """

    def items(self, downloads: Downloads) -> dict[str, list[Item]]:
        """See `Builder.items`."""
        by_split = {"train": _train_items(downloads), "val": _val_items(downloads)}
        splits = {split: _alternate(items) for split, items in by_split.items()}
        splits = {split: items for split, items in splits.items() if items}
        if not splits:
            raise wrong_downloads_error(
                downloads,
                "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and"
                " ILSVRC2012_devkit_t12.tar.gz, or the folders train/n01440764/, ... and"
                " val/n01440764/, ...",
            )
        return splits

    def features(self, storage: str) -> dict[str, str]:
        """See `Builder.features`."""
        return {"name": "text", "image": "jpeg", "label": "int"}

    def example(self, downloads: Downloads, item: Item, storage: str) -> Example:
        """See `Builder.example`."""
        data = downloads.read(item.image)
        verify_image(data, item.image)
        return {"name": item.name, "image": data, "label": item.extra["label"]}

    def fingerprint(self, item: Item) -> str:
        """See `Builder.fingerprint`."""
        return f"{item.name} {item.extra['label']}"


def _alternate(items: Iterable[Item]) -> list[Item]:
    """Returns items that alternate between the classes, so that the first ones have all classes."""
    counts: Counter[int] = Counter()
    ranked = []
    for position, item in enumerate(items):
        label = item.extra["label"]
        ranked.append((counts[label], label, position, item))
        counts[label] += 1
    return [item for *_, item in sorted(ranked, key=lambda entry: entry[:3])]


def _train_items(downloads: Downloads) -> Iterator[Item]:
    for match in downloads.match(rf"(?P<name>{_WNID}_\d+)\.jpeg"):
        yield _item(match["name"], match[0], match["wnid"])


def _val_items(downloads: Downloads) -> Iterator[Item]:
    in_folders = downloads.match(rf"{_WNID}/(?P<name>ILSVRC2012_val_\d{{8}})\.jpeg")
    if in_folders:
        for match in in_folders:
            yield _item(match["name"], match[0], match["wnid"])
        return
    matches = downloads.match(r"(?P<name>ILSVRC2012_val_(?P<number>\d{8}))\.jpeg")
    if not matches:
        return
    wnids = _read_truth(downloads)
    for match in matches:
        number = int(match["number"])
        if not 1 <= number <= len(wnids):
            raise DataError(
                f"{match[0]} is image {number}, and the list of classes has {len(wnids)} lines:"
                " download the development kit again."
            )
        yield _item(match["name"], match[0], wnids[number - 1])


def _item(name: str, image: str, wnid: str) -> Item:
    if wnid not in _LABELS:
        raise DataError(f"{image} has class {wnid}, which is none of ILSVRC2012: remove it.")
    # A folder for each class, since file browsers stall on a million files.
    return Item(f"{wnid}/{name}", image, extra={"label": _LABELS[wnid]})


def _read_truth(downloads: Downloads) -> list[str]:
    """Returns the WordNet id of each validation image."""
    lists, kits = downloads.match(_TRUTH), downloads.match(r"meta\.mat")
    if not lists or not kits:
        raise DataError(
            f"{downloads.source} has the validation images without their classes:"
            " add ILSVRC2012_devkit_t12.tar.gz, with ILSVRC2012_validation_ground_truth.txt and"
            " meta.mat, or sort them into a folder for each class."
        )
    truth, kit = lists[0][0], kits[0][0]
    try:
        rows = read_structs(downloads.read(kit), "synsets", ("ILSVRC2012_ID", "WNID"))
        wnids = {int(number): str(wnid) for number, wnid in rows}
        return [wnids[int(line)] for line in downloads.read_text(truth).split()]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{truth} and {kit} do not list the class of each image ({error}): download the"
            " development kit again."
        ) from None


imagenet = partial(
    ImageNetBuilder,
    name="imagenet",
    homepage="https://image-net.org/challenges/LSVRC/2012",
    counts={"train": 1281167, "val": 50000},
    shard_size=2048,
    storages=("files",),
)
