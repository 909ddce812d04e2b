"""RGB weights in networks of other channels."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from gsto_jax import GSTOSpec, HRNet, UserError
from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.initialize import abstract_variables, initial_variables
from gsto_jax.models.specs import RESNETS
from gsto_jax.weights import GSTO_FORMAT, from_state_dict, to_state_dict
from gsto_jax.weights.input_channels import fit_input_channels, is_input_kernel
from tests.gsto_jax.weight_states import SPEC

STEM = ("params", "stem1", "conv", "kernel")


def network(channels):
    return HRNet(SPEC, GSTOSpec(), num_classes=3, in_channels=channels, implementation="xla")


@pytest.fixture(scope="module")
def rgb():
    return initial_variables(network(3), seed=0)


def load(rgb, channels):
    variables = abstract_variables(network(channels))
    state = {
        key.removeprefix("model."): value for key, value in to_state_dict(rgb, GSTO_FORMAT).items()
    }
    return from_state_dict(state, variables, GSTO_FORMAT)


def first_convolution(image, kernel):
    return np.einsum("bhwc,co->bhwo", image, kernel.sum((0, 1)))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_response_is_kept(rgb, channels):
    """Of a gray image that of its RGB copy; of more channels that of the first three."""
    result = load(rgb, channels)
    loaded, original = flatten_dict(result.variables), flatten_dict(rgb)
    assert loaded.keys() == original.keys()
    for path, value in original.items():
        if path != STEM:
            np.testing.assert_array_equal(np.abs(loaded[path]), np.abs(value), err_msg=path)
    kernel = loaded[STEM]
    assert kernel.shape == (3, 3, channels, original[STEM].shape[3])
    image = np.random.default_rng(0).normal(size=(2, 4, 4, channels)).astype(np.float32)
    if channels < 3:
        image = np.repeat(image[..., :1], channels, axis=3)
    copy = image[..., :3] if channels > 3 else np.repeat(image[..., :1], 3, axis=3)
    np.testing.assert_allclose(
        first_convolution(image, kernel), first_convolution(copy, original[STEM]), atol=1e-5
    )
    assert result.notes and "first convolution" in result.notes[0]


@pytest.mark.slow
def test_a_gray_image_has_the_logits_of_its_copy(rgb):
    rgb = load(rgb, 3).variables
    gray = load(rgb, 1)
    assert not load(rgb, 3).notes
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)

    def logits(channels):
        return jax.jit(lambda variables, x: network(channels).apply(variables, x).logits)

    copy = np.repeat(image, 3, axis=3)
    np.testing.assert_allclose(
        logits(1)(gray.variables, image), logits(3)(rgb, copy), rtol=1e-3, atol=1e-3
    )


def test_only_rgb_weights_are_converted(rgb):
    gray = load(rgb, 1).variables
    for channels in (3, 5):
        with pytest.raises(UserError, match=rf"conv1\.weight has 1 .* {channels} .*data\.channels"):
            load(gray, channels)
    np.testing.assert_array_equal(
        flatten_dict(load(gray, 1).variables)[STEM], flatten_dict(gray)[STEM]
    )


def test_other_kernels_are_returned():
    kernel = np.ones((1, 1, 5, 2), np.float32)
    assert fit_input_channels(kernel, 7) is kernel
    rgb = np.ones((1, 1, 3, 2), np.float16)
    assert fit_input_channels(rgb, 3) is rgb
    assert fit_input_channels(rgb, 8).dtype == np.float16


@pytest.mark.parametrize(
    "model",
    [network(5), ContextNet(RESNETS["resnet50"], "ppm", "none", num_classes=3, in_channels=5)],
    ids=["hrnet", "resnet"],
)
def test_networks_have_one_input_kernel(model):
    """It is the only parameter whose shape depends on the channels of the image."""
    shapes = flatten_dict(abstract_variables(model)["params"])
    other = flatten_dict(abstract_variables(model.clone(in_channels=3))["params"])
    changed = [path for path, leaf in shapes.items() if leaf.shape != other[path].shape]
    assert changed == [path for path in shapes if is_input_kernel(path)]
    assert len(changed) == 1
