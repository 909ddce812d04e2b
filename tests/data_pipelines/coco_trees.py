"""Small COCO keypoint downloads with changed entries or images."""

import json
from dataclasses import replace

from data_pipelines import COCO_KEYPOINTS, Keypoints
from data_pipelines.builders import BUILDERS, prepare
from tests.data_pipelines.downloads_trees import coco_files, write_tree

TRAIN, VAL = (f"annotations/person_keypoints_{split}2017.json" for split in ("train", "val"))
PERSON = {"id": 1, "name": "person", "keypoints": list(COCO_KEYPOINTS.names)}
KEYPOINTS = Keypoints(names=COCO_KEYPOINTS.names, sigmas=COCO_KEYPOINTS.sigmas)


def content_of(*people, images=(1, 2), categories=(PERSON,)):
    listed = [{"id": n, "file_name": f"{n}.jpg"} for n in images]
    return {"images": listed, "annotations": list(people), "categories": [*map(dict, categories)]}


def build(root, train=None, val=None, files=None, keypoints=KEYPOINTS, on_note=lambda note: None):
    """Prepares the small downloads with other COCO files or images."""
    files = coco_files() | (files or {})
    for name, content in ((TRAIN, train), (VAL, val)):
        if content is not None:
            files[name] = json.dumps(content).encode()
    builder = replace(BUILDERS["coco_keypoints"](), keypoints=keypoints)
    source = write_tree(root / "downloads", files)
    return prepare(builder, source, root / "sets", partial=True, on_note=on_note)


def edited(name, change):
    """Returns the content of a COCO file of the small downloads after a change."""
    content = json.loads(coco_files()[name])
    change(content)
    return content
