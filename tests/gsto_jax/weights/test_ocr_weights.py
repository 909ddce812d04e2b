"""Weights of HRNet-OCR, and of networks with another head where one of the two has OCR."""

import numpy as np
import pytest

from gsto_jax.config import HRNetConfig, ModelConfig
from gsto_jax.errors import UserError
from gsto_jax.models import OCRSpec
from gsto_jax.weights import (
    GSTO_FORMAT,
    HRNET_FORMAT,
    OCR_FORMAT,
    detect_format,
    export_format,
    from_state_dict,
    locate_network,
    option_notes,
    to_state_dict,
    transfer,
)
from tests.gsto_jax.weight_states import (
    assert_equal_arrays,
    group_sizes,
    network,
    random_state,
    shapes_of,
)

SIZES = {"head": "ocr", "ocr": OCRSpec(features=8, key_features=4)}
OCR, PLAIN_NETWORK = network(**SIZES), network()
PLAIN_OPTIONS = {"gfm": False, "gtm": ("none",) * 3}
NUM_OCR = 7 * 5 + 6 + 2
"""Arrays of the module "ocr": of seven convolutions with BN, the 3x3 one and the classifier."""


@pytest.fixture(scope="module")
def state():
    return random_state(OCR, OCR_FORMAT)


def located(state, model):
    return locate_network(state, shapes_of(model)).state_dict


def load(state, model):
    arrays = located(state, model)
    return from_state_dict(arrays, shapes_of(model), detect_format(arrays))


def config(**options):
    align_corners = options.pop("align_corners", False)
    return ModelConfig(align_corners=align_corners, hrnet=HRNetConfig(**options))


def test_files_of_hrnet_ocr_are_loaded_and_written(state):
    assert all(key.startswith("model.") for key in state)
    assert "model.ocr_distri_head.object_context_block.f_object.3.0.running_var" in state
    assert detect_format(located(state, OCR)) is OCR_FORMAT
    result = load(state | {"model.loss.criterion.weight": np.ones(19, np.float32)}, OCR)
    assert (result.initialized, list(result.unused)) == ({}, ["loss"])
    assert len(result.loaded["ocr"]) == NUM_OCR
    assert_equal_arrays(to_state_dict(result.variables, OCR_FORMAT), state)


def test_the_head_of_hrnetv2_becomes_the_soft_object_regions(state):
    plain = random_state(PLAIN_NETWORK)
    result = load(plain, OCR)
    assert group_sizes(result.initialized) == {"OCR head": NUM_OCR}
    kernel = result.variables["params"]["head"]["classifier"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0].T, plain["last_layer.3.weight"][:, :, 0, 0])
    result = load(state, PLAIN_NETWORK)
    assert result.initialized == {}
    kernel = result.variables["params"]["head"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0].T, state["model.aux_head.0.weight"][:, :, 0, 0])
    assert set(result.unused) == {"conv3x3_ocr", "ocr_distri_head", "cls_head"}


def test_checkpoints_of_networks_with_and_without_ocr(state):
    variables = load(state, OCR).variables
    plain = transfer(variables, shapes_of(PLAIN_NETWORK))
    assert plain.initialized == {} and list(plain.unused) == ["ocr"]
    back = transfer(plain.variables, shapes_of(OCR))
    assert group_sizes(back.initialized) == {"OCR head: not in the checkpoint": NUM_OCR}


def test_other_numbers_of_classes_start_the_classifiers_fresh(state):
    layers = ("model.cls_head.", "model.aux_head.3.")
    fewer = {key: value[:5] for key, value in state.items() if key.startswith(layers)}
    result = load(state | fewer, OCR)
    (names,) = result.initialized.values()
    assert {name.rpartition("/")[0] for name in names} == {"head/classifier", "ocr/classifier"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.cls_head.weight": None}, r"missing cls_head\.weight"),
        ({"model.cls_head.bias": np.zeros(3, np.float32)}, r"cls_head\.bias has shape \(3,\)"),
        ({"model.aux_head.9.bias": np.zeros(3, np.float32)}, r"unexpected aux_head\.9\.bias"),
        ({"model.conv3x3_ocr.1.weight": np.full(8, np.nan, np.float32)}, "not finite"),
    ],
)
def test_damaged_files(state, changes, message):
    changed = {key: value for key, value in (state | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        load(changed, OCR)


def test_formats_of_configs():
    assert export_format(config(head="ocr", **PLAIN_OPTIONS)) is OCR_FORMAT
    assert export_format(config(**PLAIN_OPTIONS)) is HRNET_FORMAT
    assert export_format(config()) is GSTO_FORMAT
    with pytest.raises(UserError, match=r"model\.hrnet\.head must be v2 to export .* got ocr"):
        export_format(config(head="ocr"))


def test_note_about_align_corners():
    options = {"head": "ocr", **PLAIN_OPTIONS}
    (note,) = option_notes(OCR_FORMAT, config(**options))
    assert "config.model.align_corners is False" in note
    assert option_notes(OCR_FORMAT, config(align_corners=True, **options)) == []


@pytest.mark.parametrize("name", ["ocr_features", "ocr_key_features", "ocr_dropout"])
def test_options_of_the_head_need_it(name):
    with pytest.raises(UserError, match=rf"config\.model\.hrnet\.{name} must be .* its default"):
        HRNetConfig(**{name: 0.5 if name == "ocr_dropout" else 3})
    HRNetConfig(head="ocr", **{name: 0.5 if name == "ocr_dropout" else 3})
