"""Finds COCO and labelme JSON of a dataset, and proposes classes from its categories."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_pipelines.annotation_options import BACKGROUND, IGNORE
from data_pipelines.annotations import Annotations, Painter, read_annotations
from data_pipelines.annotations.painting import is_background
from data_pipelines.errors import DataError
from data_pipelines.files.images import read_image_header
from data_pipelines.inspection.class_names import NamesFile
from data_pipelines.inspection.classes import (
    MAX_CLASSES,
    ClassProposal,
    Entry,
    check_class_count,
    is_ignore_name,
)
from data_pipelines.inspection.coding import Coding
from data_pipelines.inspection.file_names import PLACEHOLDER, order_splits, parse_names, split_path
from data_pipelines.inspection.layout import Layout
from data_pipelines.inspection.pairing import match_files
from data_pipelines.labels import IGNORE_LABEL
from data_pipelines.sources.coco_entries import Notes
from data_pipelines.sources.stats import count_pixels
from gsto_jax.image_files import DecodeOptions

_MAX_COCO_FILES = 50
"""Maximum number of JSON files that are opened as COCO files."""
_MAX_DRAWN = 100
"""Number of images whose shapes are drawn, to count pixels."""
_MIN_COVERED = 0.9
"""Fraction of the pixels in shapes above which the others count as unlabeled, not background."""


def find_annotations(
    root: Path, images: Sequence[str], paths: Sequence[str]
) -> tuple[Layout | None, list[str]]:
    """Finds images and their COCO or labelme JSON below a folder.

    Args:
      root: the folder.
      images: its image files, as relative paths.
      paths: all its files.

    Returns:
      The layout, or None; and why JSON files cannot be used.
    """
    documents = [path for path in paths if _is_json(path)]
    errors: list[str] = []
    layout = _find_labelme(root, images, documents, errors)
    return layout or _find_coco(root, images, documents, errors), errors


def _is_json(path: str) -> bool:
    return path.lower().endswith(".json")


def _find_labelme(
    root: Path, images: Sequence[str], documents: Sequence[str], errors: list[str]
) -> Layout | None:
    """Finds JSON files named like images."""
    files = parse_names([*images, *documents])
    match = match_files(files, lambda path: float(_is_json(path)))
    if match is None or not match.folders or not _is_json(match.pairs[0][1].path):
        return None
    image_folder, folder = ("/".join(folder) or "." for folder in match.folders)
    splits: dict[str, dict[str, str]] = defaultdict(dict)
    for image, document in match.pairs:
        splits[image.split][document.path] = image.path
    try:
        annotations = {
            split: read_annotations(root / folder.replace(PLACEHOLDER, split))
            for split in order_splits(splits)
        }
    except DataError as error:
        errors.append(str(error))
        return None
    layout = _layout(
        root, f"labelme JSON in {folder}, images in {image_folder}", folder, image_folder
    )
    for split, content in annotations.items():
        base = root / folder.replace(PLACEHOLDER, split)
        for annotated in content.images:
            path = (base / f"{annotated.stem}.json").relative_to(root).as_posix()
            if photo := splits[split].get(path):
                layout.annotated[root / photo] = annotated
                layout.pairs.setdefault(split, []).append((root / photo, root / path))
    layout.categories = _union(annotations.values())
    return layout if layout.pairs else None


def _find_coco(
    root: Path, images: Sequence[str], documents: Sequence[str], errors: list[str]
) -> Layout | None:
    """Finds the COCO files whose images exist, those of instances first."""
    by_template: dict[str, dict[str, Annotations]] = defaultdict(dict)
    for path in sorted(documents, key=lambda path: path.count("/"))[:_MAX_COCO_FILES]:
        try:
            content = read_annotations(root / path)
        except DataError as error:
            errors.append(str(error))
            continue
        template, split = split_path(path, documents)
        by_template[template][split] = content
    by_name: dict[str, list[str]] = defaultdict(list)
    for image in images:
        by_name[PurePosixPath(image).name].append(image)
    layouts = []
    for template, contents in by_template.items():
        if layout := _coco_layout(root, template, contents, by_name):
            layouts.append(layout)
        else:
            errors.append(f"none of the images that {template} lists exists.")
    return max(
        layouts,
        key=lambda layout: ("instance" in layout.options["annotations"], len(layout.annotated)),
        default=None,
    )


def _coco_layout(
    root: Path,
    template: str,
    contents: Mapping[str, Annotations],
    by_name: Mapping[str, Sequence[str]],
) -> Layout | None:
    """Describes COCO files whose names differ in the split only."""
    folders: Counter[str] = Counter()
    for split, content in contents.items():
        folders.update(
            folder.replace(split, PLACEHOLDER) if split else folder
            for annotated in content.images
            for folder in _image_folders(annotated.path, by_name)
        )
    if not folders:
        return None
    folder = folders.most_common(1)[0][0]
    layout = _layout(root, f"COCO JSON {template}, images in {folder}", template, folder)
    missing = 0
    for split in order_splits(contents):
        base = root / folder.replace(PLACEHOLDER, split)
        document = root / template.replace(PLACEHOLDER, split)
        for annotated in contents[split].images:
            image = base / annotated.path
            if not image.is_file():
                missing += 1
                continue
            layout.annotated[image] = annotated
            layout.pairs.setdefault(split, []).append((image, document))
    if missing:
        layout.doubts.append(f"{missing} images that the JSON lists are missing")
    layout.categories = _union(contents.values())
    return layout if layout.pairs else None


def _image_folders(path: str, by_name: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yields the folders relative to which a listed image exists."""
    for image in by_name.get(PurePosixPath(path).name, ()):
        if image == path:
            yield "."
        elif image.endswith(f"/{path}"):
            yield image[: -len(path) - 1]


def _layout(root: Path, description: str, annotations: str, images: str) -> Layout:
    drawn = next(
        name for name in ("labels", "label_maps", "drawn_labels") if not (root / name).exists()
    )
    if PLACEHOLDER in annotations:
        drawn += f"/{PLACEHOLDER}"
    options = {"images": images, "annotations": annotations, "labels": drawn}
    return Layout(root, description, options, {})


def _union(contents: Sequence[Annotations] | Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for content in contents for name in content.categories))


def inspect_annotations(
    layout: Layout, names_files: Sequence[NamesFile]
) -> tuple[Coding, ClassProposal]:
    """Draws some annotated images, counts their classes, and proposes classes.

    Raises:
      DataError: the shapes of the images that are drawn are malformed, or there are fewer than 2
        classes.
    """
    names = _order_categories(layout.categories, names_files)
    if len(names) > MAX_CLASSES - 2:
        raise DataError(
            f"{layout.description}: categories must be at most {MAX_CLASSES - 2}; got {len(names)}."
            " Merge them."
        )
    painter = Painter(
        {name: n for n, name in enumerate(names)}, background=IGNORE_LABEL - 1, ignore=IGNORE_LABEL
    )
    coding = Coding("ids", "shapes, which --mode=prepare draws into label files")
    images = list(layout.annotated)
    coding.num_labels = len(images)
    for path in images[:: -(-len(images) // _MAX_DRAWN) or 1]:
        counts = count_pixels(draw(painter, path, layout))
        coding.num_read += 1
        coding.pixels.update(counts)
        coding.images.update(counts.keys())
    return coding, _propose(coding, names)


def draw(painter: Painter, image: Path, layout: Layout) -> np.ndarray:
    """Draws the label map of an image file, `h w` uint8. Raises DataError."""
    size = read_image_header(image, str(image)).oriented_size(DecodeOptions())
    return painter.draw(layout.annotated[image], size, Notes(str(image)))


def _order_categories(categories: Sequence[str], names_files: Sequence[NamesFile]) -> list[str]:
    """Returns the categories, in the order of a file that names them."""
    for file in names_files:
        listed = [entry.name for entry in file.classes]
        if set(categories) <= set(listed):
            return [name for name in listed if name in categories]
    return list(categories)


def _propose(coding: Coding, names: Sequence[str]) -> ClassProposal:
    doubts = []
    entries = [
        Entry(n, "", f"its name is {name!r}") if is_ignore_name(name) else Entry(n, name)
        for n, name in enumerate(names)
    ]
    uncovered = coding.share(IGNORE_LABEL - 1)
    if uncovered and not any(map(is_background, names)):
        num_classes = sum(not is_ignore_name(name) for name in names)
        if uncovered > 1 - _MIN_COVERED or num_classes == 1:
            entries.insert(0, Entry(IGNORE_LABEL - 1, BACKGROUND))
        else:
            entries.append(Entry(IGNORE_LABEL - 1, "", "in no shape"))
            doubts.append(
                f"{uncovered:.2%} of the pixels are in no shape and ignored; if they are a class,"
                f" add {BACKGROUND!r} to data.classes"
            )
    classes = tuple(entry.name for entry in entries if entry.name)
    check_class_count(classes, f"the categories {', '.join(map(repr, names)) or '(none)'}")
    options: dict[str, Any] = {"classes": classes}
    ignored = [
        names[entry.value] for entry in entries if not entry.name and entry.value < len(names)
    ]
    if ignored:
        options["category_map"] = tuple((name, IGNORE) for name in ignored)
    return ClassProposal(
        [e for e in entries if e.name] + [e for e in entries if not e.name], options, doubts
    )
