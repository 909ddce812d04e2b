"""Padded shapes: few, large enough, little padding."""

import numpy as np
import pytest

from data_pipelines.buckets import choose_padded_shapes, padded_shape_of, plan_batches


def padding(sizes, padded_shapes):
    placed = [padded_shape_of(size, padded_shapes) for size in sizes]
    return sum(h * w for h, w in placed) / sum(h * w for h, w in sizes)


def test_few_sizes_are_padded_shapes_themselves():
    sizes = [(360, 480)] * 5 + [(480, 360)] * 2
    assert sorted(choose_padded_shapes(sizes)) == [(360, 480), (480, 360)]
    assert choose_padded_shapes([]) == []


def test_cheapest_pair_is_merged():
    sizes = [(100, 100)] * 9 + [(100, 104)] + [(300, 200)]
    assert choose_padded_shapes(sizes, max_shapes=2) == [(100, 104), (300, 200)]
    assert choose_padded_shapes(sizes, max_shapes=1) == [(300, 200)]


@pytest.mark.parametrize("seed", range(4))
def test_photographs_of_many_sizes_are_padded_by_little(seed):
    """Sizes as in VOC: a long side of 500 pixels and common aspect ratios."""
    rng = np.random.default_rng(seed)
    sizes = []
    for _ in range(2000):
        short = int(
            rng.choice([375, 333, 334, 332, 400, 281], p=[0.6, 0.2, 0.05, 0.05, 0.05, 0.05])
        )
        short = short if rng.random() < 0.8 else int(rng.integers(300, 500))
        sizes.append((short, 500) if rng.random() < 0.7 else (500, short))
    padded_shapes = choose_padded_shapes(sizes)
    assert len(padded_shapes) <= 6
    assert padding(sizes, padded_shapes) < 1.15


def test_hundreds_of_sizes_still_fit():
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, rng.integers(200, 700, 2))) for _ in range(3000)]
    padded_shapes = choose_padded_shapes(sizes, max_shapes=6)
    assert len(padded_shapes) <= 6
    for size in sizes:
        padded_shape_of(size, padded_shapes)
    # None is larger than what lies on it.
    largest = (max(h for h, _ in sizes), max(w for _, w in sizes))
    assert all(h <= largest[0] and w <= largest[1] for h, w in padded_shapes)
    with pytest.raises(ValueError, match=r"800"):
        padded_shape_of((800, 10), padded_shapes)


def test_batches_hold_one_padded_shape_each():
    sizes = [(4, 4), (8, 8), (3, 4), (4, 4), (8, 7)]
    plan = plan_batches([(padded_shape_of(size, [(4, 4), (8, 8)]),) for size in sizes], 2)
    assert plan == [((4, 4), [0, 2]), ((4, 4), [3]), ((8, 8), [1, 4])]


def test_buckets_with_equal_padded_shapes_share_no_batch():
    """Images padded equally at one scale but not at another are in separate batches."""
    buckets = [((64, 64), (96, 96)), ((32, 64), (64, 96)), ((64, 64), (96, 64))] * 2
    plan = plan_batches(buckets, 4)
    assert plan == [((32, 64), [1, 4]), ((64, 64), [2, 5]), ((64, 64), [0, 3])]
