"""Feature extractors return the feature maps of their networks."""

import jax
import numpy as np
import pytest

from gsto_jax import create_model
from gsto_jax.models.initialize import abstract_variables


def maps_of(outputs, info):
    """Returns the map of a network's outputs that a `FeatureInfo` names."""
    stage, _, branch = info.name.partition("/branch")
    return outputs.branches[stage][int(branch or 0)]


@pytest.mark.parametrize("name", ["gsto_hrnet_mini", "hrnet_pose_mini", "gsto_resnet_mini_ppm"])
def test_shapes_and_strides_of_odd_sizes(name):
    network, variables = create_model(name, 5)
    extractor, selected = create_model(name, 5, features_only=True)
    image = jax.ShapeDtypeStruct((2, 37, 51, 3), np.float32)
    outputs = jax.eval_shape(network.apply, variables, image)
    features = jax.eval_shape(extractor.apply, selected, image)
    assert len(features) == len(extractor.feature_info)
    for x, info in zip(features, extractor.feature_info, strict=True):
        assert x.shape == (2, -(-37 // info.stride), -(-51 // info.stride), info.channels)
        assert x.shape == maps_of(outputs, info).shape
    shapes = jax.tree.map(np.shape, selected)
    assert shapes == jax.tree.map(lambda x: x.shape, abstract_variables(extractor))


def test_values_are_those_of_the_network():
    network, variables = create_model("hrnetv2_mini", 3, init="he")
    extractor, selected = create_model("hrnetv2_mini", 3, init="he", features_only=True)
    image = np.random.default_rng(0).random((1, 33, 40, 3), np.float32)

    @jax.jit
    def both(variables, selected):
        return network.apply(variables, image).branches["stage4"], extractor.apply(selected, image)

    for expected, x in zip(*both(variables, selected), strict=True):
        assert np.ptp(x) > 0
        np.testing.assert_array_equal(x, expected)
