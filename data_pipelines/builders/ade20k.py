"""ADE20K's scene parsing benchmark, from ADEChallengeData2016.zip or its folders."""

from functools import partial

from data_pipelines.builders.split_folders import SplitFoldersBuilder

_FILE = r"(?P<split>training|validation)/(?P<name>ADE_(?:train|val)_\d+)"

ade20k = partial(
    SplitFoldersBuilder,
    name="ade20k",
    homepage="http://sceneparsing.csail.mit.edu",
    counts={"train": 20210, "val": 2000},
    image_format="jpeg",
    shard_size=1024,
    images=rf"images/{_FILE}\.jpg",
    labels=rf"annotations/{_FILE}\.png",
    splits={"training": "train", "validation": "val"},
    expected="the folders images/ and annotations/ of ADEChallengeData2016.zip",
)
