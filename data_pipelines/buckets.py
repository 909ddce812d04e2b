"""Groups images of many sizes into batches of a few padded shapes, each compiled once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

MAX_PADDED_SHAPES = 6
"""Number of padded shapes that evaluation images of all sizes share, if padding is allowed."""
Size = tuple[int, int]
Bucket = tuple[Size, ...]
"""Key that images in a batch share; its first item is the (h, w) that they are padded to."""
_MAX_DISTINCT_SIZES = 96  # merging compares all pairs, so more sizes are rounded up first


@dataclass
class _Group:
    height: int
    width: int
    count: int

    def merge(self, other: "_Group") -> "_Group":
        return _Group(
            max(self.height, other.height),
            max(self.width, other.width),
            self.count + other.count,
        )

    @property
    def area(self) -> int:
        return self.height * self.width * self.count


def choose_padded_shapes(sizes: Sequence[Size], max_shapes: int = 6) -> list[Size]:
    """Chooses shapes to pad images to, with little padding.

    Starts with the size (h, w) of every image, and merges the two that add the fewest pixels until
    at most `max_shapes` are left. Returns them smallest first; each image fits into one.
    """
    counts, step = Counter(sizes), 8
    if len(counts) <= max_shapes:
        return sorted(counts, key=prod)
    while len(counts) > _MAX_DISTINCT_SIZES:
        rounded: Counter[Size] = Counter()
        for (height, width), count in counts.items():
            rounded[-(-height // step) * step, -(-width // step) * step] += count
        counts, step = rounded, 2 * step
    groups = [_Group(*size, count) for size, count in sorted(counts.items())]
    while len(groups) > max_shapes:
        pairs = [(a, b) for n, a in enumerate(groups) for b in groups[:n]]
        first, second = min(pairs, key=lambda pair: _added_area(*pair))
        groups = [group for group in groups if group is not first and group is not second]
        groups.append(first.merge(second))
    padded_shapes = sorted([(group.height, group.width) for group in groups], key=prod)
    # Rounding up may have made a padded shape larger than all of its images.
    members: dict[Size, list[Size]] = {}
    for size in set(sizes):
        members.setdefault(padded_shape_of(size, padded_shapes), []).append(size)
    return [
        (max(height for height, _ in fitting), max(width for _, width in fitting))
        for padded_shape in padded_shapes
        if (fitting := members.get(padded_shape))
    ]


def _added_area(first: _Group, second: _Group) -> int:
    return first.merge(second).area - first.area - second.area


def padded_shape_of(size: Size, padded_shapes: Sequence[Size]) -> Size:
    """Returns the first padded shape that an image fits into. Raises ValueError if none does."""
    for padded_shape in padded_shapes:
        if size[0] <= padded_shape[0] and size[1] <= padded_shape[1]:
            return padded_shape
    raise ValueError(
        f"padded_shapes must contain a shape for size {size}; got {list(padded_shapes)}"
    )


def plan_batches(buckets: Sequence[Bucket], batch_size: int) -> list[tuple[Size, list[int]]]:
    """Groups images of equal buckets into batches, the smallest padded shapes first.

    Returns the padded shape and image indices of each batch; the last batch of a bucket may be
    smaller.
    """
    members: dict[Bucket, list[int]] = {}
    for index, bucket in enumerate(buckets):
        members.setdefault(bucket, []).append(index)
    return [
        (bucket[0], members[bucket][start : start + batch_size])
        for bucket in sorted(members, key=lambda bucket: (prod(bucket[0]), bucket))
        for start in range(0, len(members[bucket]), batch_size)
    ]
