"""Measures how branches and gates respond to the size of objects and to boundaries (SciPy).

The paper's Figure 1 shows it by eye. Here a map (`branch_maps`) is read at each labeled pixel of an
image, from the cell that the pixel lies in, and standardized over these pixels, so that maps and
images compare. An object is an 8-connected component of one class; its size is the square root of
its area in pixels, and its activation is the mean over its pixels. The index of a map is Spearman's
rank correlation of activation and size over the objects of an image, averaged over images: 1 for a
map that grows with the object, -1 for one that shrinks. All intervals are bootstrapped over images.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage, stats

from gsto_jax.types import Size

SIZE_EDGES = (2.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, np.inf)
"""Bins of object sizes in pixels; smaller objects, which are noise of the labels, do not count."""
DISTANCE_EDGES = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, np.inf)
"""Bins of distances from a boundary in pixels."""
MIN_OBJECTS = 5
"""Minimum number of objects of an image that has an index."""
MIN_IMAGES = 5
"""Minimum number of images behind a confidence interval."""
RESAMPLES = 2000
"""Number of bootstrap resamples."""
_EIGHT_CONNECTED = np.ones((3, 3), bool)
_CONSTANT = 1e-6
"""Standard deviation, relative to the mean, below which a map counts as constant."""
_DECIMALS = 6
"""Decimals of standardized activations, so that rounding errors break no ties."""


def branch_maps(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Selects the maps to measure from the feature maps of an HRNet.

    Args:
      features: maps `b h_j w_j` by name, from `gsto_jax.evaluation.forward.feature_maps`.

    Returns:
      "branch 0" and so on, the channel means of the last stage; with GFM "gate 0" and so on, the
      mean over the gates on each branch in the last module; with gated GTMs "GTM 2" and so on, the
      gate of the transition after that stage.
    """
    branches = {
        name.replace("/", " "): features[name]
        for name in sorted(features)
        if name.startswith("branch/")
    }
    matches = [re.fullmatch(r"gate/(.+)/gate(\d+)_to\d+", name) for name in features]
    gfm_gates = [match for match in matches if match]
    last = max((match[1] for match in gfm_gates), default="")
    sources = sorted({match[2] for match in gfm_gates})
    gates = {
        f"gate {source}": np.mean(
            [features[match[0]] for match in gfm_gates if match.groups() == (last, source)], axis=0
        )
        for source in sources
    }
    gtms = {
        f"GTM {name[-1]}": features[name]
        for name in sorted(features)
        if name.startswith("gate/transition")
    }
    return branches | gates | gtms


@dataclass(frozen=True)
class LabelGeometry:
    """Objects and boundaries of a label map, with `n` objects and `p` labeled pixels.

    Attributes:
      labeled: pixels with a class.
      objects: index of the object of each labeled pixel.
      sizes: square root of the area of each object, in pixels.
      distance: distance of each labeled pixel from the nearest boundary pixel, in pixels; infinite
        in an image without boundaries.
    """

    labeled: Bool[np.ndarray, "h w"]
    objects: Int[np.ndarray, " p"]
    sizes: Float[np.ndarray, " n"]
    distance: Float[np.ndarray, " p"]


def label_geometry(label: Int[np.ndarray, "h w"], ignore_label: int) -> LabelGeometry:
    """Finds the objects and boundaries of a label map.

    A pixel is at a boundary if one of its four neighbors has another label, ignored or not, since
    some datasets ignore a band along boundaries.
    """
    labeled = label != ignore_label
    objects, count = np.zeros(label.shape, np.int32), 0
    for k in np.unique(label[labeled]).tolist():
        components, num_components = ndimage.label(label == k, _EIGHT_CONNECTED)
        inside = components > 0
        objects[inside] = components[inside] + (count - 1)
        count += num_components
    boundary = np.zeros(label.shape, bool)
    for axis in (0, 1):
        differs = np.diff(label, axis=axis) != 0
        for part in (np.s_[1:], np.s_[:-1]):
            boundary[(slice(None),) * axis + (part,)] |= differs
    distance = np.full(label.shape, np.inf)
    if boundary.any():
        distance = ndimage.distance_transform_edt(~boundary)
    areas = np.bincount(objects[labeled], minlength=count)
    return LabelGeometry(labeled, objects[labeled], np.sqrt(areas), distance[labeled])


@dataclass(frozen=True)
class ImageMeasures:
    """Measures of `m` maps on an image, with `s` bins of sizes and `d` bins of distances.

    Attributes:
      means: mean of each map over the labeled pixels, as the network computes it.
      indices: rank correlation of activation and size; 0 without `MIN_OBJECTS` objects.
      index_count: 1 if the image has an index, or else 0.
      size_sums: sum of the standardized activations of the objects in each bin.
      size_counts: number of objects in each bin.
      distance_sums: sum of the standardized activations of the pixels in each bin.
      distance_counts: number of pixels in each bin.
    """

    means: Float[np.ndarray, " m"]
    indices: Float[np.ndarray, " m"]
    index_count: int
    size_sums: Float[np.ndarray, "m s"]
    size_counts: Int[np.ndarray, " s"]
    distance_sums: Float[np.ndarray, "m d"]
    distance_counts: Int[np.ndarray, " d"]


def measure_image(
    maps: Sequence[Float[np.ndarray, "_ _"]], geometry: LabelGeometry, padded_shape: Size
) -> ImageMeasures:
    """Measures the maps of an image.

    Args:
      maps: maps of the padded image, at any resolution.
      geometry: objects and boundaries of the image without its padding.
      padded_shape: (h, w) of the padded image.

    Returns:
      The measures. A map that is constant, over the image or over its objects, separates nothing:
      its index is 0.
    """
    sizes, areas = geometry.sizes, geometry.sizes**2
    counted = sizes >= SIZE_EDGES[0]
    size_bins = np.digitize(sizes[counted], SIZE_EDGES[1:-1])
    distant = np.isfinite(geometry.distance)
    distance_bins = np.digitize(geometry.distance[distant], DISTANCE_EDGES[1:-1])
    has_index = counted.sum() >= MIN_OBJECTS and np.ptp(sizes[counted]) > 0
    num_sizes, num_distances = len(SIZE_EDGES) - 1, len(DISTANCE_EDGES) - 1
    means, indices, size_sums, distance_sums = [], [], [], []
    for values in maps:
        pixels = _read_pixels(values, geometry.labeled, padded_shape)
        mean, activation = _standardize(pixels)
        sums = np.bincount(geometry.objects, activation, len(sizes))
        objects = np.round(sums[counted] / areas[counted], _DECIMALS)
        separates = has_index and np.ptp(objects) > 0
        means.append(mean)
        indices.append(stats.spearmanr(sizes[counted], objects).statistic if separates else 0.0)
        size_sums.append(np.bincount(size_bins, objects, num_sizes))
        distance_sums.append(np.bincount(distance_bins, activation[distant], num_distances))
    return ImageMeasures(
        means=np.array(means),
        indices=np.array(indices),
        index_count=int(has_index),
        size_sums=np.array(size_sums),
        size_counts=np.bincount(size_bins, minlength=num_sizes),
        distance_sums=np.array(distance_sums),
        distance_counts=np.bincount(distance_bins, minlength=num_distances),
    )


def _read_pixels(
    values: Float[np.ndarray, "_ _"], labeled: Bool[np.ndarray, "h w"], padded_shape: Size
) -> Float[np.ndarray, " p"]:
    """Returns the value of the cell of a map in which the center of each labeled pixel lies."""
    rows, columns = (
        (2 * np.arange(side) + 1) * cells // (2 * padded_side)
        for side, cells, padded_side in zip(labeled.shape, values.shape, padded_shape, strict=True)
    )
    pixels: np.ndarray = values.astype(np.float64)[rows][:, columns][labeled]
    return pixels


def _standardize(values: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
    """Returns the mean, and the values with mean 0 and standard deviation 1, or 0 if constant."""
    mean, std = (values.mean(), values.std()) if values.size else (np.nan, 0.0)
    if std <= _CONSTANT * abs(mean):
        return float(mean), np.zeros_like(values)
    return float(mean), (values - mean) / std


@dataclass(frozen=True)
class Estimates:
    """Estimates with 95 % intervals over images; NaN where there are too few images.

    Attributes:
      value: the estimates.
      low: lower ends of the intervals.
      high: upper ends of the intervals.
    """

    value: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


def estimate_ratio(
    sums: Float[np.ndarray, "n ..."], counts: Int[np.ndarray, "n ..."], seed: int = 0
) -> Estimates:
    """Estimates means over `n` images, weighted by counts, by the percentile bootstrap.

    Args:
      sums: sum of the values of each image.
      counts: number of values of each image; may lack axes of `sums` after the first, and have axes
        of length 1.
      seed: seed of the resamples. They depend on it and on `n` only, so that estimates of the same
        images are paired.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    counts = counts.reshape(counts.shape + (1,) * (sums.ndim - counts.ndim))
    counts = np.broadcast_to(counts, sums.shape)
    shape, n = sums.shape[1:], len(sums)
    sums, counts = sums.reshape(n, -1), counts.reshape(n, -1)
    value, low, high = np.full((3, sums.shape[1]), np.nan)
    present = counts.sum(0) > 0
    value[present] = sums.sum(0)[present] / counts.sum(0)[present]
    enough = (counts > 0).sum(0) >= MIN_IMAGES
    if enough.any():
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
        weights = weights.astype(np.float64)  # products of floats use BLAS
        totals = weights @ counts[:, enough]
        # A resample without any of the few images says nothing.
        ratios = weights @ sums[:, enough] / np.where(totals > 0, totals, np.nan)
        low[enough], high[enough] = np.nanpercentile(ratios, (2.5, 97.5), axis=0)
    return Estimates(value.reshape(shape), low.reshape(shape), high.reshape(shape))


@dataclass(frozen=True)
class ScaleAwareness:
    """Measures of the maps of a network on a set of images.

    Attributes:
      names: names of the `m` maps.
      images: number of images.
      means: mean of each map, as the network computes it.
      index: index of each map, then, with several branches, of the last branch minus the first.
      index_names: names of the indices.
      index_images: number of images that have an index.
      size: standardized activation `m s` of objects by size.
      size_counts: number of objects by size.
      distance: standardized activation `m d` of pixels by distance from a boundary.
      distance_counts: number of pixels by distance.
      image_indices: indices `n i` of each image; see `compare_indices`.
      image_index_counts: `n`, whether each image has an index.
    """

    names: tuple[str, ...]
    images: int
    means: Float[np.ndarray, " m"]
    index: Estimates
    index_names: tuple[str, ...]
    index_images: int
    size: Estimates
    size_counts: Int[np.ndarray, " s"]
    distance: Estimates
    distance_counts: Int[np.ndarray, " d"]
    image_indices: Float[np.ndarray, "n i"]
    image_index_counts: Int[np.ndarray, " n"]


def average_measures(names: Sequence[str], measures: Sequence[ImageMeasures]) -> ScaleAwareness:
    """Averages the measures of images.

    Args:
      names: names of the maps.
      measures: measures of at least one image.
    """
    indices = np.stack([x.indices for x in measures])
    index_names = tuple(names)
    branches = [n for n, name in enumerate(names) if name.startswith("branch ")]
    if len(branches) > 1:
        first, last = branches[0], branches[-1]
        indices = np.concatenate([indices, indices[:, [last]] - indices[:, [first]]], 1)
        index_names += (f"{names[last]} - {names[first].split()[1]}",)
    index_counts = np.array([x.index_count for x in measures])
    size_counts = np.stack([x.size_counts for x in measures])
    distance_counts = np.stack([x.distance_counts for x in measures])
    return ScaleAwareness(
        names=tuple(names),
        images=len(measures),
        means=np.nanmean([x.means for x in measures], axis=0),
        index=estimate_ratio(indices, index_counts),
        index_names=index_names,
        index_images=int(index_counts.sum()),
        size=estimate_ratio(np.stack([x.size_sums for x in measures]), size_counts[:, None]),
        size_counts=size_counts.sum(0),
        distance=estimate_ratio(
            np.stack([x.distance_sums for x in measures]), distance_counts[:, None]
        ),
        distance_counts=distance_counts.sum(0),
        image_indices=indices,
        image_index_counts=index_counts,
    )


def compare_indices(
    first: ScaleAwareness, second: ScaleAwareness
) -> dict[str, tuple[float, float, float]]:
    """Returns index of the first network minus index of the second, and its interval, by map.

    Args:
      first: measures of a network.
      second: measures of another network on the same images.

    Raises:
      ValueError: the images differ.
    """
    if not np.array_equal(first.image_index_counts, second.image_index_counts):
        raise ValueError("first and second must be measures of the same images")
    names = [name for name in first.index_names if name in second.index_names]
    columns = [
        x.image_indices[:, [x.index_names.index(name) for name in names]] for x in (first, second)
    ]
    difference = estimate_ratio(columns[0] - columns[1], first.image_index_counts)
    values = np.stack([difference.value, difference.low, difference.high], 1).tolist()
    return {
        name: (value, low, high) for name, (value, low, high) in zip(names, values, strict=True)
    }
