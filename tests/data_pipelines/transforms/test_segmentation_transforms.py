"""Random scale, crop and flip: exact values, statistics, agreement of image and label."""

import cv2
import numpy as np
import pytest

from data_pipelines import RandomScaleCropFlip, ResizeFlipCrop

IDENTITY = {"scale_min": 1.0, "scale_step": 0.0, "num_scales": 1, "flip": False}


def element(height: int, width: int) -> dict:
    image = np.random.default_rng(3).integers(0, 250, (height, width, 3), np.uint8)
    return {"image": image, "label": image[..., 0].copy(), "index": 7}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_identity():
    before = element(5, 9)
    after = RandomScaleCropFlip(crop=(5, 9), **IDENTITY).random_map(before, rng())
    np.testing.assert_array_equal(after["image"], before["image"])
    np.testing.assert_array_equal(after["label"], before["label"])
    np.testing.assert_array_equal(after["size"], [5, 9])
    assert after["size"].dtype == after["index"].dtype == np.int32
    assert after["index"] == 7
    assert after["image"].dtype == after["label"].dtype == np.uint8


def gray(values) -> np.ndarray:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def test_window_known_answer():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for flip, expected in ((False, [[6, 7], [10, 11]]), (True, [[5, 4], [9, 8]])):
        geometry = ResizeFlipCrop(height=3, width=4, top=1, left=2, flip=flip)
        np.testing.assert_array_equal(geometry.transform_label(pixels, (2, 2), 99), expected)
        np.testing.assert_array_equal(
            geometry.transform_image(gray(pixels), (2, 2)), gray(expected)
        )


def test_padding_is_right_and_below_even_when_flipped():
    pixels = np.array([[1, 2]], np.uint8)
    geometry = ResizeFlipCrop(height=1, width=2, top=0, left=0, flip=True)
    expected = [[2, 1, 99], [99, 99, 99]]
    np.testing.assert_array_equal(geometry.transform_label(pixels, (2, 3), 99), expected)
    expected = [[2, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(geometry.transform_image(gray(pixels), (2, 3)), gray(expected))
    assert geometry.valid_size((2, 3)) == (1, 2)


def test_resizing_by_half_and_by_two():
    ramp = np.repeat(np.array([[0, 10, 20, 30]], np.uint8), 2, axis=0)
    half = ResizeFlipCrop(height=1, width=2, top=0, left=0, flip=False)
    np.testing.assert_array_equal(half.transform_image(gray(ramp), (1, 2)), gray([[5, 25]]))
    double = ResizeFlipCrop(height=4, width=8, top=0, left=0, flip=False)
    np.testing.assert_array_equal(
        double.transform_label(ramp, (4, 8), 0)[0], [0, 0, 10, 10, 20, 20, 30, 30]
    )


@pytest.mark.parametrize("seed", range(60))
def test_window_equals_resizing_all_and_cropping(seed):
    """The image within one gray level, the label exactly."""
    draw = rng(seed)
    height, width = draw.integers(40, 200, 2).tolist()
    image = cv2.GaussianBlur(draw.integers(0, 256, (height, width, 3), np.uint8), (5, 5), 0)
    label = draw.integers(0, 9, (height, width), np.uint8)
    target = (np.array([height, width]) * draw.uniform(0.5, 2.1, 2 if seed % 2 else 1)).astype(int)
    crop = tuple(draw.integers(20, 150, 2).tolist())
    top, left = (int(draw.integers(max(0, t - c) + 1)) for t, c in zip(target, crop, strict=True))
    geometry = ResizeFlipCrop(
        height=int(target[0]),
        width=int(target[1]),
        top=top,
        left=left,
        flip=bool(draw.integers(2)),
    )

    def usual(pixels, interpolation, fill):
        whole = cv2.resize(pixels, (geometry.width, geometry.height), interpolation=interpolation)
        whole = whole[:, ::-1] if geometry.flip else whole
        window = whole[top : top + crop[0], left : left + crop[1]]
        out = np.full((*crop, *pixels.shape[2:]), fill, np.uint8)
        out[: window.shape[0], : window.shape[1]] = window
        return out

    expected = usual(label, cv2.INTER_NEAREST, 255)
    np.testing.assert_array_equal(geometry.transform_label(label, crop, 255), expected)
    expected = usual(image, cv2.INTER_LINEAR, 0).astype(int)
    assert np.abs(geometry.transform_image(image, crop) - expected).max() <= 1


def test_window_decodes_only_its_pixels():
    """Uses an image that records the shapes it is indexed with."""
    shapes = []

    class Counting:
        shape = (1000, 2000, 3)

        def __getitem__(self, where):
            block = np.zeros(self.shape, np.uint8)[where]
            shapes.append(block.shape)
            return block

    ResizeFlipCrop(height=2000, width=4000, top=100, left=200, flip=True).transform_image(
        Counting(), (50, 80)
    )
    assert shapes[0][0] <= 50 / 2 + 2 and shapes[0][1] <= 80 / 2 + 2


def test_flipped_labels_swap_left_and_right():
    label = np.array([[0, 3, 4, 9]], np.uint8)
    transform = RandomScaleCropFlip(crop=(1, 4), flip_pairs=((3, 4),), **IDENTITY | {"flip": True})
    before = {"image": gray(label), "label": label, "index": 0}
    labels = {tuple(transform.random_map(before, rng(seed))["label"][0]) for seed in range(20)}
    assert labels == {(0, 3, 4, 9), (9, 3, 4, 0)}


def test_fixed_size_ignores_proportions():
    transform = RandomScaleCropFlip(crop=(4, 4), fixed_size=(473, 473), num_scales=12)
    geometries = [transform.sample((333, 500), rng(seed)) for seed in range(100)]
    assert all(geometry.height == geometry.width for geometry in geometries)
    assert {geometry.width for geometry in geometries} == {
        int(473 * (5 + k) / 10 + 0.5) for k in range(12)
    }


def test_padding_values():
    out = RandomScaleCropFlip(crop=(6, 7), ignore_label=200, **IDENTITY).random_map(
        element(4, 5), rng()
    )
    np.testing.assert_array_equal(out["size"], [4, 5])
    assert not out["image"][4:].any()
    assert not out["image"][:, 5:].any()
    assert (out["label"][4:] == 200).all()
    assert (out["label"][:, 5:] == 200).all()


@pytest.mark.parametrize("seed", range(20))
def test_label_moves_with_the_image(seed):
    # Vertical stripes of 8 pixels: away from their edges both interpolations keep the value.
    stripes = np.repeat(np.arange(1, 13, dtype=np.uint8) * 20, 8)
    image = np.broadcast_to(stripes[None, :, None], (48, 96, 3)).copy()
    transform = RandomScaleCropFlip(
        crop=(40, 64), scale_min=0.5, scale_step=0.5, num_scales=4, ignore_label=0
    )
    out = transform.random_map({"image": image, "label": image[..., 0], "index": 0}, rng(seed))
    red = out["image"][..., 0]
    inside = np.isin(red, stripes)
    assert inside.mean() > 0.5 * np.mean(out["label"] > 0)
    np.testing.assert_array_equal(red[inside], out["label"][inside])
    rows, columns = out["size"]
    assert (out["label"][:rows, :columns] > 0).all()
    assert not out["label"][rows:].any()
    assert not out["label"][:, columns:].any()


def test_unscaled_label_equals_the_image_exactly():
    transform = RandomScaleCropFlip(
        crop=(7, 8), scale_min=1.0, scale_step=0.0, num_scales=1, ignore_label=0
    )
    labels = set()
    for seed in range(40):
        out = transform.random_map(element(6, 12), rng(seed))
        np.testing.assert_array_equal(out["image"][..., 0], out["label"])
        labels.add(out["label"].tobytes())
    assert len(labels) == 10  # five columns to start from, flipped or not


def test_scales_are_uniform_and_rounded():
    transform = RandomScaleCropFlip(crop=(4, 4), base_size=2048, num_scales=16)
    generator = rng(1)
    geometries = [transform.sample((333, 500), generator) for _ in range(3200)]
    widths, counts = np.unique([geometry.width for geometry in geometries], return_counts=True)
    expected = [int(2048 * (0.5 + 0.1 * k) + 0.5) for k in range(16)]
    np.testing.assert_array_equal(widths, expected)
    assert counts.min() > 140 and counts.max() < 265  # 200 expected, deviation 14
    assert all(geometry.height == int(333 * geometry.width / 500 + 0.5) for geometry in geometries)
    flips = np.mean([geometry.flip for geometry in geometries])
    assert 0.46 < flips < 0.54


def test_base_size_zero_is_the_long_side():
    transform = RandomScaleCropFlip(crop=(4, 4), scale_min=0.5, scale_step=0.0, num_scales=1)
    geometry = transform.sample((31, 11), rng())
    assert (geometry.height, geometry.width) == (16, 6)


def test_positions_cover_the_image():
    transform = RandomScaleCropFlip(crop=(4, 6), **IDENTITY)
    generator = rng(2)
    geometries = [transform.sample((6, 9), generator) for _ in range(300)]
    assert {geometry.top for geometry in geometries} == {0, 1, 2}
    assert {geometry.left for geometry in geometries} == {0, 1, 2, 3}
    assert not any(geometry.flip for geometry in geometries)


def test_resizing_equals_reference(golden):
    arrays = golden("h2")
    height, width = arrays["aug/label_resized"].shape
    geometry = ResizeFlipCrop(height=height, width=width, top=0, left=0, flip=False)
    label = geometry.transform_label(arrays["aug/label"], (height, width), 255)
    np.testing.assert_array_equal(label, arrays["aug/label_resized"])
    image = geometry.transform_image(arrays["image_bgr_u8"], (height, width))
    # Builds of OpenCV may round a gray level apart.
    assert np.abs(image.astype(int) - arrays["aug/image_resized"]).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9, 16])
@pytest.mark.parametrize("scaled", [False, True])
def test_channels_are_transformed_alike(channels, scaled):
    """Each channel of an image is resized and flipped as if it were a channel of RGB."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
    height, width = (27, 41) if scaled else image.shape[:2]
    transform = ResizeFlipCrop(height=height, width=width, top=2, left=3, flip=True)
    pixels = transform.transform_image(image, (24, 32))
    assert pixels.shape == (24, 32, channels) and pixels.flags.c_contiguous
    for n in range(channels):
        rgb = np.ascontiguousarray(np.repeat(image[..., n : n + 1], 3, axis=2))
        expected = transform.transform_image(rgb, (24, 32))[..., 0]
        np.testing.assert_allclose(pixels[..., n].astype(int), expected, atol=1)
