"""A few sizes for images of many: what compiles is one program a size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
Bucket = tuple[Size, ...]
"""What images that share batches have in common; first the (h, w) that they are padded to."""
_DISTINCT = 96  # sizes to begin with; more are rounded up first


@dataclass
class _Group:
    height: int
    width: int
    count: int

    def joined(self, other: "_Group") -> "_Group":
        return _Group(
            max(self.height, other.height),
            max(self.width, other.width),
            self.count + other.count,
        )

    @property
    def area(self) -> int:
        return self.height * self.width * self.count


def choose_padded_shapes(sizes: Sequence[Size], most: int = 6) -> list[Size]:
    """Chooses the sizes to pad images to, with little padding.

    Begins with every size, and joins the two whose union adds fewest pixels, until few are left.

    Args:
        sizes: (h, w) of each image.
        most: how many padded shapes at most.

    Returns:
        (h, w) of the padded shapes, smallest first; none if there is no image. Each image fits one.
    """
    counts, step = Counter(sizes), 8
    if len(counts) <= most:
        return sorted(counts, key=lambda size: size[0] * size[1])
    while len(counts) > _DISTINCT:
        rounded: Counter[Size] = Counter()
        for (height, width), count in counts.items():
            rounded[-(-height // step) * step, -(-width // step) * step] += count
        counts, step = rounded, 2 * step
    groups = [_Group(*size, count) for size, count in sorted(counts.items())]
    while len(groups) > most:
        pairs = [(a, b) for n, a in enumerate(groups) for b in groups[:n]]
        first, second = min(pairs, key=lambda pair: _added(*pair))
        groups = [group for group in groups if group is not first and group is not second]
        groups.append(first.joined(second))
    joined = [(group.height, group.width) for group in groups]
    padded_shapes = sorted(joined, key=lambda size: size[0] * size[1])
    # Rounding up may have made a padded shape larger than any image on it.
    placed: dict[Size, list[Size]] = {}
    for size in set(sizes):
        placed.setdefault(padded_shape_of(size, padded_shapes), []).append(size)
    return [
        (max(height for height, _ in members), max(width for _, width in members))
        for padded_shape in padded_shapes
        if (members := placed.get(padded_shape))
    ]


def _added(first: _Group, second: _Group) -> int:
    return first.joined(second).area - first.area - second.area


def padded_shape_of(size: Size, padded_shapes: Sequence[Size]) -> Size:
    """Returns the first padded shape that an image fits on. Raises ValueError if there is none."""
    for padded_shape in padded_shapes:
        if size[0] <= padded_shape[0] and size[1] <= padded_shape[1]:
            return padded_shape
    raise ValueError(f"no padded shape of {list(padded_shapes)} holds an image of {size}")


def plan_batches(buckets: Sequence[Bucket], batch_size: int) -> list[tuple[Size, list[int]]]:
    """Groups images of one bucket into batches, the smallest padded shapes first.

    Args:
        buckets: of each image.
        batch_size: images in a batch; the last one of a bucket may hold fewer.

    Returns:
        Padded shape and images of each batch. Every image is in one of them.
    """
    members: dict[Bucket, list[int]] = {}
    for index, bucket in enumerate(buckets):
        members.setdefault(bucket, []).append(index)
    ordered = sorted(members, key=lambda bucket: (bucket[0][0] * bucket[0][1], bucket))
    return [
        (bucket[0], members[bucket][start : start + batch_size])
        for bucket in ordered
        for start in range(0, len(members[bucket]), batch_size)
    ]
