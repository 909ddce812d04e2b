"""Networks under prefixes in weight files."""

import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.weights import HRNET_FORMAT, import_weights, locate_network
from tests.gsto_jax.weight_states import shapes_of
from tests.gsto_jax.weights.wrapped_states import (
    SEGMENTATION,
    add_prefix,
    assert_loaded,
    blank,
    save_torch,
)


@pytest.mark.parametrize(
    ("tables", "prefix", "wrapper"),
    [
        ((), "module.", None),
        ((), "_orig_mod.", "_orig_mod"),
        (("state_dict",), "", None),
        (("model",), "module.", None),
        (("model_state",), "module._orig_mod.", "_orig_mod"),
        (("state_dict",), "net._orig_mod.", "_orig_mod"),
        (("state_dict",), "_forward_module.model.network.", None),
        (("checkpoint", "model"), "module.module.", None),
        (("state_dict",), "model._fsdp_wrapped_module.", "_fsdp_wrapped_module"),
        (("net",), "encoder.model.", None),
        (("state_dict",), "backbone.", None),
        (("state_dict",), "module.backbone._orig_mod.", "_orig_mod"),
    ],
)
def test_networks_under_any_prefix(state, tmp_path, tables, prefix, wrapper):
    tree = add_prefix(prefix, state) | {"epoch": 7}
    for name in reversed(tables):
        tree = {"meta": {"env": "x", "classes": ["a"]}, name: tree, "lr": 0.1}
    imported = import_weights(save_torch(tmp_path / "a.pth", tree), blank(SEGMENTATION))
    assert_loaded(imported, state)
    whole = "".join(f"{table}." for table in tables) + prefix
    plain = whole.replace(f"{wrapper}.", "")
    assert (imported.weight_format, imported.network.prefix) == (HRNET_FORMAT, plain)
    assert imported.record["prefix"] == plain and imported.unused == {}
    assert (f"note         prefix {plain!r} removed from the keys" in imported.summary) == (
        plain != ""
    )
    assert (f"note         {wrapper} removed from the keys" in imported.summary) == (
        wrapper is not None
    )


def test_wrappers_around_inner_modules(state):
    """Reads keys as `torch.compile` of one stage changes them."""
    wrapped = {key.replace("stage2.", "stage2._orig_mod."): value for key, value in state.items()}
    assert wrapped.keys() != state.keys()
    assert locate_network(wrapped, shapes_of(SEGMENTATION)).state_dict.keys() == state.keys()
    twice = wrapped | {key: state[key] for key in state if key.startswith("stage2.0.b")}
    with pytest.raises(UserError, match=r"stage2\.0\.branches"):
        locate_network(twice, shapes_of(SEGMENTATION))


def test_two_networks_in_one_file(state, tmp_path):
    other = {key: value + 1 for key, value in state.items()}
    path = save_torch(
        tmp_path / "a.pth",
        {"state_dict": add_prefix("student.", state) | add_prefix("teacher.", other)},
    )
    variables, count = blank(SEGMENTATION), len(state)
    with pytest.raises(UserError) as error:
        import_weights(path, variables)
    for name in ("student", "teacher"):
        assert f"'state_dict.{name}.' ({count} keys)" in str(error.value)
    assert str(error.value).endswith("choose one by config.init_prefix")
    for prefix in ("state_dict.teacher.", "state_dict.teacher"):
        imported = import_weights(path, variables, prefix=prefix)
        assert_loaded(imported, other)
        assert imported.network.other_prefixes == ("state_dict.student.",)
        assert len(imported.unused["state_dict"]) == count
    for prefix in ("teacher", "state_dict.", "", "state_dict.t"):
        with pytest.raises(UserError, match=r"config\.init_prefix"):
            import_weights(path, variables, prefix=prefix)


def test_networks_with_and_without_a_prefix(state):
    """Chooses between a network at the top level and one under a prefix."""
    both = state | add_prefix("copy.", {key: value + 1 for key, value in state.items()})
    with pytest.raises(UserError, match=r"'' .*'copy\.'"):
        locate_network(both, shapes_of(SEGMENTATION))
    assert locate_network(both, shapes_of(SEGMENTATION), "copy").prefix == "copy."
    bare = locate_network(both, shapes_of(SEGMENTATION), "")
    assert bare.prefix == "" and state.keys() < bare.state_dict.keys()


def test_other_networks_name_similar_keys(state):
    renamed = {key.replace("conv1.weight", "conv_1.weight"): state[key] for key in list(state)[:4]}
    strange = {f"body_{key}": value for key, value in renamed.items()}
    with pytest.raises(UserError) as error:
        locate_network(strange, shapes_of(SEGMENTATION))
    assert "2 of this network's" in str(error.value)
    near = {"conv1.weightt": state["conv1.weight"], "features.0.weight": np.zeros(3)}
    with pytest.raises(UserError, match=r"conv1\.weightt for \S+\.weight"):
        locate_network(near, shapes_of(SEGMENTATION))
