"""Networks of timm and torchvision give the same features here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax.models.context_net import ContextNet
from gsto_jax.models.initialize import initial_variables
from gsto_jax.models.resnet import ResNet
from gsto_jax.models.specs import RESNETS, VARIANTS
from gsto_jax.weights import (
    HRNET_FORMAT,
    IMAGENET_FORMAT,
    RESNET_FORMAT,
    WEIGHT_WRITERS,
    detect_format,
    export_weights,
    from_state_dict,
    import_weights,
    read_state_dict,
    to_state_dict,
)
from tests.golden.make_timm import image, kept, weights
from tests.gsto_jax.weight_states import (
    assert_equal_arrays,
    group_sizes,
    network,
    state_dict_shapes,
    without,
)


@pytest.mark.parametrize(
    "variant",
    [
        "w18_small_v2",
        pytest.param("w18", marks=pytest.mark.long),
        pytest.param("w32", marks=pytest.mark.long),
        pytest.param("w48", marks=pytest.mark.long),
    ],
)
def test_timm_networks_give_the_same_features(golden, variant):
    arrays = golden("i")
    name = f"hrnet_{variant}"
    shapes = {
        str(key): tuple(map(int, shape.split("x"))) if shape else ()
        for key, shape in zip(arrays[f"{name}/keys"], arrays[f"{name}/shapes"], strict=True)
    }
    keys = set(state_dict_shapes(network(spec=VARIANTS[variant]), HRNET_FORMAT))
    body = {key: shape for key, shape in shapes.items() if key in keys}
    rest = {key: np.zeros(shapes[key], np.float32) for key in shapes if key not in body}
    assert rest and all(map(IMAGENET_FORMAT.ignores, rest))
    state = weights(body) | rest
    model = network(spec=VARIANTS[variant], upsample="nearest")
    assert detect_format(state) is IMAGENET_FORMAT
    loaded = from_state_dict(state, initial_variables(model, 0), IMAGENET_FORMAT)
    assert group_sizes(loaded.initialized) == {"head": 8}
    x = jnp.asarray(image().transpose(0, 2, 3, 1))
    branches = jax.jit(lambda v, x: model.apply(v, x).branches["stage4"])(loaded.variables, x)
    assert len(branches) == 4
    for n, branch in enumerate(branches):
        expected = arrays[f"{name}/branch{n}"].transpose(0, 2, 3, 1)
        output = np.asarray(branch)[..., kept(branch.shape[-1])]
        assert output.shape == expected.shape and np.abs(expected).max() > 1
        assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()
    back = to_state_dict(loaded.variables)
    assert_equal_arrays(without(back, "last_layer"), {key: state[key] for key in body})


def test_torchvision_resnet_gives_the_same_features(golden, tmp_path):
    """Loads a file into the dilated encoder of a context network."""
    arrays = golden("k")
    shapes = {
        str(key): tuple(map(int, shape.split("x"))) if shape else ()
        for key, shape in zip(arrays["keys"], arrays["shapes"], strict=True)
    }
    state = weights(shapes)
    WEIGHT_WRITERS[".pth"](tmp_path / "resnet50.pth", state)
    model = ContextNet(RESNETS["resnet50"], "ppm", "supervised", 19)
    imported = import_weights(tmp_path / "resnet50.pth", initial_variables(model, 0))
    assert imported.weight_format is RESNET_FORMAT and list(imported.result.initialized) == [
        "all but the encoder"
    ]
    assert imported.result.num_loaded == sum(
        not key.startswith("fc.") and not key.endswith("tracked") for key in shapes
    )
    x = jnp.asarray(image().transpose(0, 2, 3, 1))
    encoder = {kind: tree["encoder"] for kind, tree in imported.variables.items()}
    stages = jax.jit(ResNet(RESNETS["resnet50"]).apply)(encoder, x)
    for n, stage in enumerate(stages, 1):
        expected = arrays[f"stage{n}"].transpose(0, 2, 3, 1)
        output = np.asarray(stage)[..., kept(stage.shape[-1])]
        assert output.shape == expected.shape and np.abs(expected).max() > 1
        assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()
    missing = export_weights(tmp_path / "back.pth", imported.variables, RESNET_FORMAT)
    assert missing == len(imported.result.initialized["all but the encoder"])
    body = {key: state[key] for key in state if not RESNET_FORMAT.ignores(key)}
    assert_equal_arrays(read_state_dict(tmp_path / "back.pth"), body)
