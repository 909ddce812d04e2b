"""Throughput of the input, measured with a clock that every read advances."""

import numpy as np
import pytest

from data_pipelines import EvalBatches, evaluation_throughput, measure_stages, train_throughput
from data_pipelines.sources.folder import FolderSource
from tests.data_pipelines.prepared_sets import build, opened


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def timed(source, clock, **seconds):
    """Returns a source whose methods take so many seconds of the clock."""

    class Timed(type(source)):
        def __getitem__(self, index):
            clock.now += seconds.get("read", 0) + seconds.get("decode", 0)
            return super().__getitem__(index)

        def stored_bytes(self, index):
            clock.now += seconds.get("read", 0)
            return 1000 * (index + 1)

    source.__class__ = Timed
    return source


def test_stages(make_scenes_config, tiny_source):
    clock = Clock()
    source = timed(tiny_source(4), clock, read=2.0, decode=5.0)
    stages = measure_stages(make_scenes_config(), source, 1000.0, clock)
    assert (stages.read, stages.decode, stages.augment) == (2.0, 5.0, 0.0)
    assert (stages.images, stages.stored_bytes) == (4, 2500)
    assert measure_stages(make_scenes_config(), source, 12.0, clock).images == 2  # of 11 s each


class Iterations:
    """A clock that advances by a second whenever it is read."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.mark.parametrize(("seconds", "batches"), [(0.5, 1), (3, 3)])
def test_training_counts_the_images_of_the_measured_batches(
    make_scenes_config, tiny_source, monkeypatch, seconds, batches
):
    read = []
    take = type(tiny_source(1)).__getitem__
    monkeypatch.setattr(
        type(tiny_source(1)), "__getitem__", lambda self, n: read.append(n) or take(self, n)
    )
    speed = train_throughput(
        make_scenes_config(), tiny_source(8), 4, workers=0, seconds=seconds, clock=Iterations()
    )
    assert speed.images_per_second == 4.0  # a batch of 4 in every second of this clock
    assert len(read) >= 4 * (4 + batches)


def test_evaluation_counts_each_image_once(make_scenes_config, tiny_source):
    batches = EvalBatches(make_scenes_config(), tiny_source(7), 3)
    assert evaluation_throughput(batches, 100.0, Iterations()) == 7 / 4
    assert evaluation_throughput(batches, 1.0, Iterations()) == 3 / 2
    many = EvalBatches(make_scenes_config(), tiny_source(30), 3)  # the first 4 of 10 warm up
    assert evaluation_throughput(many, 100.0, Iterations()) == 18 / 7


def test_stored_bytes(tmp_path, tree, make_folder_config):
    source = FolderSource(make_folder_config(tree), "val")
    files = ("images/val/x/one_img.png", "labels/val/x/one_ids.png")
    assert source.stored_bytes(0) == sum((tree / file).stat().st_size for file in files)
    build(tmp_path, "cityscapes")
    prepared = opened(tmp_path, "cityscapes", "train")
    png = (tmp_path / "downloads").rglob("ulm_000000*leftImg8bit.png")
    label = (tmp_path / "downloads").rglob("train/**/ulm_000000*labelIds.png")
    assert prepared.stored_bytes(0) == sum(next(x).stat().st_size for x in (png, label))
    build(tmp_path, "coco_keypoints")
    persons = opened(tmp_path, "coco_keypoints", "train")
    assert persons.stored_bytes(0) > np.prod(persons[0]["image"].shape) / 100
