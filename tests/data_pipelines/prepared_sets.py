"""Prepared datasets of small trees of downloads."""

import os
from pathlib import Path

import pytest

from data_pipelines import (
    ADE20K,
    CITYSCAPES,
    COCO_KEYPOINTS,
    COCO_STUFF,
    LIP,
    MAPILLARY,
    PASCAL_CONTEXT_59,
    PASCAL_VOC,
    DataConfig,
    make_source,
)
from data_pipelines.builders import BUILDERS, prepare
from tests.data_pipelines.downloads_trees import (
    ade20k_files,
    cityscapes_files,
    coco_files,
    coco_stuff_files,
    context_files,
    lip_files,
    mapillary_files,
    voc_files,
    write_tars,
    write_tree,
    write_zips,
)

FILES = {
    "cityscapes": cityscapes_files,
    "lip": lip_files,
    "pascal_context": lambda: context_files("mat"),
    "ade20k": ade20k_files,
    "pascal_voc": voc_files,
    "coco_stuff": coco_stuff_files,
    "mapillary": mapillary_files,
    "coco_keypoints": coco_files,
}
TABLES = {
    table.name: table
    for table in (CITYSCAPES, LIP, PASCAL_CONTEXT_59, ADE20K, PASCAL_VOC, COCO_STUFF, MAPILLARY)
}


WEIGHT_WRITERS = {"tree": write_tree, "zips": write_zips, "tars": write_tars}


def build(root, name, files=None, layout="tree", **options):
    source = WEIGHT_WRITERS[layout](root / "downloads", FILES[name]() if files is None else files)
    return prepare(BUILDERS[name](), source, root / "sets", **{"partial": True, **options})


def config_of(root, name, table=None, **changes):
    fields = {"source": "tfds", "root": str(root / "sets"), "name": name, "crop": (24, 32)}
    if name == "coco_keypoints":
        joints = {"names": COCO_KEYPOINTS.names, "sigmas": COCO_KEYPOINTS.sigmas}
        joints |= {"flip_pairs": COCO_KEYPOINTS.flip_pairs} | changes.pop("keypoints", {})
        fields |= {"classes": (), "palette": (), "keypoints": joints, "crop": (64, 48)}
    else:
        table = table or TABLES[name]
        fields |= {"classes": table.names, "palette": table.palette, "id_map": table.id_map}
        fields |= {"flip_pairs": table.flip_pairs}
    return DataConfig(**fields | changes)


def opened(root, name, split, table=None, **changes):
    return make_source(config_of(root, name, table, **changes), split)


def real(name):
    """Returns the folder of a real dataset below GSTO_DATA, or skips the test."""
    root = os.environ.get("GSTO_DATA")
    if not root or not Path(root, name).is_dir():
        pytest.skip(f"GSTO_DATA names no folder that holds {name}")
    return Path(root, name)
