"""Batches: order, epochs, hosts, resuming, coverage and errors."""

import json

import numpy as np
import pytest

from data_pipelines import DataError, EvalBatches, FolderSource, make_source, train_batches

KEYS = ("image", "label", "size", "index")


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def host_batches(config, source, batch_size, host, hosts, seed=0):
    return train_batches(config, source, batch_size, seed=seed, shard_index=host, shard_count=hosts)


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_shapes_and_dtypes(make_scenes_config):
    config = make_scenes_config()
    batch = next(train_batches(config, make_source(config, "train"), 4, seed=0))
    assert {key: batch[key].shape for key in KEYS} == {
        "image": (4, 24, 32, 3),
        "label": (4, 24, 32),
        "size": (4, 2),
        "index": (4,),
    }
    assert [batch[key].dtype for key in KEYS] == [np.uint8, np.uint8, np.int32, np.int32]


def test_deterministic_and_seeded(make_scenes_config, tiny_source):
    config, source = make_scenes_config(), tiny_source(10)
    first = take(train_batches(config, source, 2, seed=5), 7)
    assert_same(first, take(train_batches(config, source, 2, seed=5), 7))
    other = take(train_batches(config, source, 2, seed=6), 7)
    assert [b["index"].tolist() for b in first] != [b["index"].tolist() for b in other]


def test_epochs(make_scenes_config, tiny_source):
    config = make_scenes_config()
    batches = take(train_batches(config, tiny_source(11), 3, seed=0), 12)
    epochs = np.concatenate([batch["index"] for batch in batches]).reshape(4, 9)
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 9
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    assert len({frozenset(epoch) for epoch in epochs.tolist()}) > 1  # the examples left out differ


def test_augmentation_differs_between_epochs(make_scenes_config, tiny_source):
    config = make_scenes_config(crop=(6, 8))
    views = {index: set() for index in range(4)}
    for batch in take(train_batches(config, tiny_source(4), 4, seed=0), 6):
        for image, index in zip(batch["image"], batch["index"], strict=True):
            views[int(index)].add(image.tobytes())
    assert all(len(variants) >= 5 for variants in views.values())


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_batches_of_hosts_concatenate_to_the_batch_of_one(make_scenes_config, tiny_source, hosts):
    config, source = make_scenes_config(), tiny_source(20)
    whole = take(train_batches(config, source, 6, seed=1), 7)
    shards = [
        take(host_batches(config, source, 6, host, hosts, seed=1), 7) for host in range(hosts)
    ]
    for step, batch in enumerate(whole):
        for key in KEYS:
            joined = np.concatenate([batches[step][key] for batches in shards])
            np.testing.assert_array_equal(joined, batch[key])


def test_hosts_draw_different_augmentations(make_scenes_config, tiny_source):
    # One size of image, eight columns to flip: equal draws would give equal sizes everywhere.
    config, source = make_scenes_config(crop=(64, 64)), tiny_source(64, ((20, 40),))
    first, second = (next(host_batches(config, source, 64, host, 2, seed=3)) for host in (0, 1))
    assert 0.4 < np.mean((first["size"] != second["size"]).any(axis=1)) <= 1.0


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 2)])
def test_resume_is_exact_whatever_the_workers(make_scenes_config, tiny_source, before, after):
    source = tiny_source(10)
    whole = take(train_batches(make_scenes_config(), source, 4, seed=2), 7)
    iterator = train_batches(make_scenes_config(workers=before), source, 4, seed=2)
    assert_same(take(iterator, 3), whole[:3])
    state = json.loads(json.dumps(iterator.get_state()))
    assert_same(take(iterator, 4), whole[3:])
    iterator.close()
    resumed = train_batches(make_scenes_config(workers=after), source, 4, seed=2)
    resumed.set_state(state)
    assert_same(take(resumed, 4), whole[3:])
    resumed.close()


def test_resume_with_other_number_of_hosts(make_scenes_config, tiny_source):
    config, source = make_scenes_config(), tiny_source(20)
    one = train_batches(config, source, 6, seed=1)
    take(one, 4)
    state = one.get_state()
    assert state == {"batches": 4}
    expected = take(one, 3)
    hosts = [host_batches(config, source, 6, host, 2, seed=1) for host in range(2)]
    for host in hosts:
        host.set_state(state)
    shards = [take(host, 3) for host in hosts]
    for step, batch in enumerate(expected):
        for key in KEYS:
            joined = np.concatenate([batches[step][key] for batches in shards])
            np.testing.assert_array_equal(joined, batch[key])


@pytest.mark.parametrize("workers", [0, 1])
def test_file_errors_reach_the_caller(tree, make_folder_config, make_png, workers):
    make_png(tree / "labels/val/x/one_ids.png", np.full((4, 6), 77))
    config = make_folder_config(tree, workers=workers)
    iterator = train_batches(config, FolderSource(config, "val"), 3, seed=0)
    with pytest.raises(DataError, match=rf"^{tree}/labels/val/x/one_ids\.png .*77 \(24 px\);"):
        next(iterator)
    iterator.close()


def test_eval_file_errors_reach_the_caller(tree, make_folder_config):
    path = tree / "images/val/y/three_img.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"decode .*three_img\.png"):
        config = make_folder_config(tree)
        list(EvalBatches(config, FolderSource(config, "val"), 2))


@pytest.mark.parametrize(
    ("batch_size", "host", "hosts", "message"),
    [
        (11, 0, 1, r"[Bb]atch size .*\b10 .*got 11\b"),
        (4, 0, 3, r"[Bb]atch size .*\b3 hosts; got 4\b"),
        (0, 0, 1, "[Bb]atch size .*got 0"),
        (4, 2, 2, "[Ss]hard index .*got 2"),
    ],
)
def test_wrong_batches_of_training(
    make_scenes_config, tiny_source, batch_size, host, hosts, message
):
    with pytest.raises(DataError, match=message):
        host_batches(make_scenes_config(), tiny_source(10), batch_size, host, hosts)


@pytest.mark.parametrize(
    ("batch_size", "shard", "message"),
    [(0, 0, "[Bb]atch size .*got 0"), (1, -1, "[Ss]hard index .*got -1")],
)
def test_wrong_batches_of_evaluation(make_scenes_config, tiny_source, batch_size, shard, message):
    with pytest.raises(DataError, match=message):
        EvalBatches(make_scenes_config(), tiny_source(3), batch_size, shard_index=shard)


@pytest.mark.parametrize("shards", [1, 2, 3, 8])
@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (7, 2), (13, 3), (16, 4), (5, 8)])
@pytest.mark.parametrize("sizes", [((6, 8),), ((6, 8), (8, 6), (6, 9)), ((4, 9), (5, 8), (9, 2))])
def test_eval_covers_every_image_once(
    make_scenes_config, tiny_source, shards, count, batch_size, sizes
):
    config, source = make_scenes_config(), tiny_source(count, sizes)
    indices, shapes = [], []
    for shard in range(shards):
        batches = EvalBatches(
            config,
            source,
            batch_size,
            shard_index=shard,
            shard_count=shards,
            max_padded_shapes=2,
        )
        shapes.append([batch["image"].shape for batch in batches])
        assert len(batches) == len(shapes[0])
        for batch in batches:
            assert batch["mask"].dtype == bool
            assert batch["index"].dtype == np.int32
            assert len(batch["image"]) == len(batch["label"]) == len(batch["index"]) == batch_size
            assert batch["image"].shape[1:3] in batches.sizes
            for row, index in enumerate(batch["index"]):
                item = source[int(index)]
                height, width = item["label"].shape
                assert batch["size"][row].tolist() == [height, width]
                np.testing.assert_array_equal(batch["image"][row, :height, :width], item["image"])
                np.testing.assert_array_equal(batch["label"][row, :height, :width], item["label"])
                assert (
                    not batch["image"][row, height:].any()
                    and not batch["image"][row, :, width:].any()
                )
                assert (batch["label"][row, height:] == 255).all()
                assert (batch["label"][row, :, width:] == 255).all()
            indices.extend(batch["index"][batch["mask"]].tolist())
    assert sorted(indices) == list(range(count))
    # All shards go through the same shapes, of which there are few.
    assert all(other == shapes[0] for other in shapes)
    assert len(set(shapes[0])) <= 2


def test_eval_images_of_a_bucket_share_its_padded_shape(make_scenes_config, tiny_source):
    """The first shape of a bucket is padded to; the others separate images, on all shards."""

    def bucket(size):
        height, width = size
        return ((-(-height // 8) * 8, -(-width // 8) * 8), (height // 5, 1))

    source = tiny_source(8, ((3, 9), (4, 16), (6, 10), (8, 9)))
    members = {(0, 4, 1, 5): (8, 16), (2, 6, 3, 7): (8, 16)}
    for shard in range(2):
        batches = list(
            EvalBatches(
                make_scenes_config(), source, 2, shard_index=shard, shard_count=2, bucket=bucket
            )
        )
        assert len(batches) == 2
        for batch in batches:
            shape = next(v for k, v in members.items() if set(batch["index"].tolist()) < set(k))
            assert batch["image"].shape[1:3] == batch["label"].shape[1:3] == shape


def test_eval_of_one_size_keeps_the_order(make_scenes_config, tiny_source):
    batches = EvalBatches(make_scenes_config(), tiny_source(7), 3)
    for _ in range(2):
        assert [b["index"].tolist() for b in batches] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
        assert [b["mask"].tolist() for b in batches][2] == [True, False, False]
