"""Evaluation images that are a fraction of the training images."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines import DataConfig, DataError, FolderSource, PersonSource, PreparedSource
from data_pipelines.sources.fraction import split_members
from tests.data_pipelines.downloads_trees import person
from tests.data_pipelines.folder_trees import LABEL, names, write
from tests.data_pipelines.prepared_sets import build, config_of
from tests.image_bytes import RGB, png


@pytest.fixture
def config(tmp_path, make_folder_config):
    """A config of one folder of images, without any file yet."""
    return make_folder_config(
        tmp_path,
        **{"images": "img", "labels": "ids", "image_suffix": "", "label_suffix": ""},
        val_fraction=0.2,
    )


def both(config, stems):
    return [split_members(stems, config, split) for split in ("train", "val")]


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (60, 0.2, 12), (7, 0.5, 4)]
)
def test_sizes(config, count, fraction, expected):
    stems = [f"city/{n}" for n in range(count)]
    train, evaluation = both(replace(config, val_fraction=fraction), stems)
    assert len(evaluation) == expected
    assert sorted(train + evaluation) == list(range(count))


def test_seed_and_order(config):
    stems = [f"caf\u00e9/{n}" for n in range(50)]
    _, evaluation = both(config, stems)
    assert evaluation[:6] == [2, 5, 11, 15, 18, 23]
    _, other = both(replace(config, val_seed=1), stems)
    assert other != evaluation
    spellings = [stem.replace("\u00e9", "e\u0301").replace("/", "\\") for stem in stems[::-1]]
    assert [49 - index for index in both(config, spellings)[1]][::-1] == evaluation


def test_an_added_image_moves_one_other_at_most(config):
    stems = [f"{n:03d}" for n in range(40)]
    members = {stems[n] for n in both(config, stems)[1]}
    for n in range(40, 90):
        stems.append(f"{n:03d}")
        held_out = {stems[index] for index in both(config, stems)[1]}
        assert len((members ^ held_out) - {stems[-1]}) <= 1
        members = held_out


def test_equal_names_stay_together(config):
    train, evaluation = both(config, ["a", "b", "./a", "b", "a"])
    assert [train, evaluation] in ([[0, 2, 4], [1, 3]], [[1, 3], [0, 2, 4]])
    with pytest.raises(DataError, match=r"val_fraction=0\.2 needs two images"):
        split_members(["a", "a"], config, "val")


def test_other_splits_have_their_own_files(config):
    assert split_members(["a", "b"], config, "test") == [0, 1]


def write_images(root, count=10):
    for n in range(count):
        write(root / f"img/{n}.jpg", np.full((4, 6, 3), n, np.uint8))
        write(root / f"ids/{n}.png", LABEL)


def test_folders_and_lists(tmp_path, config):
    write_images(tmp_path)
    train, evaluation = FolderSource(config, "train"), FolderSource(config, "val")
    assert (len(train), len(evaluation)) == (8, 2)
    assert sorted(names(train) + names(evaluation)) == [str(n) for n in range(10)]
    limited = FolderSource(replace(config, train_size=3), "train")
    assert names(limited) == names(train)[:3]
    (tmp_path / "all.csv").write_text(
        "image,label\n" + "\n".join(f"img/{n}.jpg,ids/{n}.png" for n in range(10))
    )
    listed = replace(config, list_file="all.csv")
    assert not {*names(FolderSource(listed, "train"))} & {*names(FolderSource(listed, "val"))}
    assert len(FolderSource(listed, "val")) == 2


def test_own_files_of_the_evaluation_split_are_refused(tmp_path, config):
    config = replace(config, images="{split}/img", labels="{split}/ids")
    write_images(tmp_path / "train")
    assert len(FolderSource(config, "val")) == 2
    write_images(tmp_path / "val")
    with pytest.raises(DataError, match=r"val/img exists.*val_fraction=0 .*eval_split"):
        FolderSource(config, "val")
    assert len(FolderSource(replace(config, eval_split="held_out"), "held_out")) == 2
    assert len(FolderSource(replace(config, val_fraction=0.0), "val")) == 10


def test_prepared_datasets(tmp_path):
    build(tmp_path, "lip")
    whole = PreparedSource(config_of(tmp_path, "lip"), "train")
    config: DataConfig = config_of(tmp_path, "lip", val_fraction=0.5, eval_split="held_out")
    parts = [PreparedSource(config, split) for split in ("train", "held_out")]
    assert sorted(names(parts[0]) + names(parts[1])) == sorted(names(whole))
    for part in parts:
        for index in range(len(part)):
            position = names(whole).index(part.name(index))
            for key in ("image", "label"):
                np.testing.assert_array_equal(part[index][key], whole[position][key])
            assert part.size(index) == whole.size(position)
            assert part.inspect(index).pixels == whole.inspect(position).pixels
    with pytest.raises(DataError, match="val_fraction=0 "):
        PreparedSource(replace(config, eval_split="val"), "val")


@pytest.fixture
def persons_config(tmp_path):
    """Eight images of one to three persons in the training split alone."""
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(1, 9)]
    persons = [person(10 * n + k, n) for n in range(1, 9) for k in range(1 + n % 3)]
    content = {"images": images, "annotations": persons, "categories": []}
    image = png(np.zeros((40, 60, 3), np.uint8), RGB)
    files = {f"train2017/{n}.png": image for n in range(1, 9)}
    files["annotations/person_keypoints_train2017.json"] = json.dumps(content).encode()
    build(tmp_path, "coco_keypoints", files)
    return config_of(tmp_path, "coco_keypoints", val_fraction=0.25)


def test_persons_stay_with_their_image(persons_config):
    whole = PersonSource(replace(persons_config, val_fraction=0.0), "train")
    parts = [PersonSource(persons_config, split) for split in ("train", "val")]
    ids = [part.image_ids() for part in parts]
    assert [*map(len, ids)] == [6, 2]
    assert sorted(ids[0] + ids[1]) == whole.image_ids()
    everyone = {whole.name(n): whole[n] for n in range(len(whole))}
    for part, images in zip(parts, ids, strict=True):
        assert len(part) == sum(1 + n % 3 for n in images)
        for n in range(len(part)):
            expected = everyone.pop(part.name(n))
            assert part[n]["person_id"] == expected["person_id"]
            assert part[n]["image_id"] == expected["image_id"] in images
    assert not everyone
    assert PersonSource(replace(persons_config, eval_size=1), "val").image_ids() == ids[1][:1]


def test_detections_of_held_out_images(persons_config, tmp_path):
    """Boxes in images of the training part are left out, and named."""
    box = {"category_id": 1, "bbox": [2, 2, 9, 9], "score": 0.5}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([box | {"image_id": n} for n in range(1, 9)]))
    keypoints = replace(persons_config.keypoints, detections=str(path))
    source = PersonSource(replace(persons_config, keypoints=keypoints), "val")
    assert [source[n]["image_id"] for n in range(len(source))] == source.image_ids()
    assert len(source) == 2
    assert "2 of 8 boxes" in source.warnings[0]


def test_persons_of_a_split_of_its_own_are_refused(tmp_path):
    build(tmp_path, "coco_keypoints")
    config = config_of(tmp_path, "coco_keypoints", val_fraction=0.5)
    with pytest.raises(DataError, match="val_fraction=0 "):
        PersonSource(config, "val")
