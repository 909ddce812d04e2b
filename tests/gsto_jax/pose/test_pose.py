"""Heatmaps, heatmap losses, OKS and OKS-NMS, against golden arrays."""

import jax
import numpy as np
import pytest

from data_pipelines import COCO_KEYPOINTS
from gsto_jax.losses import heatmap_loss
from gsto_jax.pose import heatmaps
from gsto_jax.pose.oks import oks_nms, rescore, similarity

SIGMAS = COCO_KEYPOINTS.sigmas


# As programs: without jit each operation is compiled by itself.
encode = jax.jit(heatmaps.encode, static_argnums=(2, 3, 4))
decode = jax.jit(heatmaps.decode, static_argnums=(1, 2))
to_image = jax.jit(heatmaps.to_image, static_argnums=3)
merge_flipped = jax.jit(heatmaps.merge_flipped, static_argnums=(2, 3))
loss_and_gradient = jax.jit(jax.value_and_grad(heatmap_loss), static_argnums=3)


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("case", ["big", "small"])
def test_targets(golden, case):
    arrays = {k.removeprefix(f"target/{case}/"): v for k, v in golden("g1").items()}
    image, heatmap = (tuple(arrays[k][::-1].tolist()) for k in ("image_wh", "heatmap_wh"))
    joints, visible = arrays["joints"][..., :2], arrays["joints_vis"][..., 0]
    targets, weights = encode(joints, visible, image, heatmap, float(arrays["sigma"]))
    np.testing.assert_array_equal(weights, arrays["target_weight"][..., 0])
    np.testing.assert_allclose(nchw(targets), arrays["target"], atol=1e-6)
    assert set(np.unique(weights)) == ({1} if case == "big" else {0, 1})


def test_decoding(golden):
    arrays = {k.removeprefix("decode/"): v for k, v in golden("g2").items()}
    maps = nhwc(arrays["heatmaps"])
    center, frame = arrays["center"], 200 * arrays["scale"]
    plain, values = decode(maps, "none")
    np.testing.assert_array_equal(plain, arrays["max_preds"])
    np.testing.assert_array_equal(values, arrays["maxvals"][..., 0])
    size = maps.shape[1:3]
    for refinement, key in (("none", "final_preds_no_post"), ("quarter", "final_preds")):
        joints, _ = decode(maps, refinement)
        result = to_image(joints, center, frame, size)
        np.testing.assert_allclose(result, arrays[key], rtol=1e-5, atol=1e-3)


def test_flip_test(golden):
    arrays = golden("g2")
    mirrored, maps = nhwc(arrays["flip/output_flipped_raw"]), nhwc(arrays["decode/heatmaps"])[:1]
    pairs = tuple(map(tuple, arrays["flip/pairs"].tolist()))
    zero = np.zeros_like(mirrored)
    for shift, key in ((False, "flip_back"), (True, "flip_back_shifted")):
        back = 2 * np.asarray(merge_flipped(zero, mirrored, pairs, shift))
        np.testing.assert_array_equal(nchw(back), arrays[f"flip/{key}"])
    merged = nchw(merge_flipped(maps, mirrored, pairs))
    np.testing.assert_allclose(merged, arrays["flip/averaged_with_decode_heatmaps"], atol=1e-7)


@pytest.mark.parametrize(
    ("refinement", "bound"), [("none", 0.51), ("quarter", 0.26), ("dark", 0.01)]
)
def test_decoding_accuracy(refinement, bound):
    """Of Gaussians centered at the exact joints, not at pixels."""
    joints = np.random.default_rng(0).uniform(10, 30, (1, 17, 2))
    y, x = np.mgrid[:48, :40]
    squares = (x[..., None] - joints[:, None, None, :, 0]) ** 2
    squares = squares + (y[..., None] - joints[:, None, None, :, 1]) ** 2
    result, values = decode(np.exp(-squares / 8).astype(np.float32), refinement, 2.0)
    assert np.abs(result - joints).max() < bound
    assert (np.asarray(values) > 0.9).all()


def test_unknown_refinement():
    with pytest.raises(ValueError, match="refinement must be one of none, quarter, dark"):
        decode(np.zeros((1, 4, 4, 1), np.float32), "udp")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("kind", "topk"), [("mse", 0), ("ohkm8", 8)])
def test_losses(golden, weighted, kind, topk):
    arrays = golden("g3")
    weights = arrays["target_weight"][..., 0] if weighted else None
    targets = nhwc(arrays["target"])
    loss, grad = loss_and_gradient(nhwc(arrays["output"]), targets, weights, topk)
    key = f"{kind}_weighted_{str(weighted).lower()}"
    np.testing.assert_allclose(loss, arrays[f"{key}/loss"], rtol=1e-6)
    np.testing.assert_allclose(nchw(grad), arrays[f"{key}/grad"], atol=1e-9)


def test_similarity_and_nms(golden):
    arrays = golden("g4")
    poses, areas = arrays["f64/keypoints_xyv"], arrays["f64/area"]
    scores = rescore(poses[..., 2], arrays["f64/box_score"], float(arrays["in_vis_thre_rescore"]))
    np.testing.assert_allclose(scores, arrays["f64/rescored"], rtol=1e-12)
    for visible, key in ((None, "oks_iou_row0"), (0.2, "oks_iou_row0_vis02")):
        result = similarity(poses[0], poses[1:], areas[0], areas[1:], SIGMAS, visible)
        np.testing.assert_allclose(result, arrays[f"f64/{key}"], rtol=1e-9)
    for threshold in (0.9, 0.5, 0.3):
        indices = oks_nms(poses, scores, areas, SIGMAS, threshold)
        assert indices == arrays[f"oks_nms_{threshold}/keep"].tolist()
        soft = oks_nms(poses, scores, areas, SIGMAS, threshold, soft=True)
        assert soft == arrays[f"soft_oks_nms_{threshold}/keep"].tolist()
