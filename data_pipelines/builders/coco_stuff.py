"""COCO-Stuff 164k: the images of COCO 2017 with maps of things and stuff."""

from functools import partial

from data_pipelines.builders.split_folders import SplitFoldersBuilder

_FILE = r"(?P<split>train|val)2017/(?P<name>\d{12})"

coco_stuff = partial(
    SplitFoldersBuilder,
    name="coco_stuff",
    homepage="https://github.com/nightrome/cocostuff",
    counts={"train": 118287, "val": 5000},
    image_format="jpeg",
    shard_size=2048,
    images=rf"{_FILE}\.jpg",
    labels=rf"{_FILE}\.png",
    splits={"train": "train", "val": "val"},
    expected="train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip",
)
