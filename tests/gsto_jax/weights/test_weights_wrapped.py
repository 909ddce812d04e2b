"""Weight files with averages and nested dictionaries, folders of weights, and the summary."""

import collections
import json
import pickle
from argparse import Namespace

import numpy as np
import pytest

from gsto_jax import GSTOSpec, UserError
from gsto_jax.weights import HRNET_FORMAT, import_weights, locate_network, read_state_dict
from gsto_jax.weights.files import write_safetensors
from tests.gsto_jax.weight_states import imagenet_state, network, shapes_of, torch_zip
from tests.gsto_jax.weights.wrapped_states import (
    SEGMENTATION,
    add_prefix,
    assert_loaded,
    blank,
    from_state,
    names_of,
    save_torch,
)


@pytest.mark.parametrize(
    ("plain", "average", "prefix"),
    [
        ("state_dict", "state_dict_ema", ""),
        ("model", "model_ema", "module."),
        ("state_dict", "ema_state_dict", "module."),
        ("model_state", "ema", "net."),
        ("net", "swa_model", "module."),
    ],
)
def test_averaged_weights(state, tmp_path, plain, average, prefix):
    averaged = {key: value + 1 for key, value in state.items()}
    more = {"n_averaged": np.ones((), np.float32), "steps": np.ones((), np.float32)}
    tree = {plain: state, average: add_prefix(prefix, averaged) | more}
    path = save_torch(tmp_path / "a.pth", tree)
    imported = import_weights(path, blank(SEGMENTATION))
    assert_loaded(imported, state)
    other = f"{average}.{prefix}"
    assert (
        f"further networks under {other!r}: choose one by --config.init_prefix" in imported.summary
    )
    assert f"prefix '{plain}.' removed from the keys" in imported.summary
    for chosen_prefix in (average, other):
        imported = import_weights(path, blank(SEGMENTATION), prefix=chosen_prefix)
        assert_loaded(imported, averaged)
        assert imported.network.prefix == other
    alone = save_torch(tmp_path / "b.pth", {average: add_prefix(prefix, averaged) | more})
    imported = (
        import_weights(alone, blank(SEGMENTATION), weight_format=HRNET_FORMAT) if prefix else None
    )
    if imported:
        assert_loaded(imported, averaged)
        assert names_of(imported.unused) == {f"{average}.n_averaged", f"{average}.steps"}


def test_several_averages_need_a_prefix(state):
    """Raises for two averages without a plain network."""
    both = add_prefix("ema.fast.", state) | add_prefix("ema.slow.", state)
    with pytest.raises(UserError, match=r"'ema\.fast\.' .*'ema\.slow\.'"):
        locate_network(both, shapes_of(SEGMENTATION))


def test_mmcv_average_buffers_are_ignored(state):
    buffers = {f"ema_{key.replace('.', '_')}": value for key, value in state.items()}
    filled = from_state(state | buffers, SEGMENTATION)
    assert filled.initialized == {} and len(names_of(filled.unused)) == len(buffers)


def test_objects_of_training_checkpoints_are_skipped(state, tmp_path):
    """Names an object that takes the place of a tensor."""
    tree = {
        "state_dict": state,
        "args": Namespace(lr=0.1),
        "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "scheduler": collections.Counter([80]),
        "tags": {"a"},
    }
    imported = import_weights(save_torch(tmp_path / "a.pth", tree), blank(SEGMENTATION))
    assert_loaded(imported, state)
    assert imported.unused == {"optimizer": ["optimizer.state.0.exp_avg"]}
    tree["state_dict"] = state | {"bn1.bias": Namespace()}
    path = save_torch(tmp_path / "b.pth", tree)
    with pytest.raises(UserError, match=r"missing bn1\.bias .*argparse\.Namespace"):
        import_weights(path, blank(SEGMENTATION))
    path = save_torch(tmp_path / "c.pth", Namespace(a=1))
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        read_state_dict(path)


def test_endless_dictionaries(tmp_path):
    tree = {}
    tree["a"] = tree
    with pytest.raises(UserError, match="8 deep"):
        read_state_dict(torch_zip(tmp_path / "a.pth", pickle.dumps(tree, 2)))
    wide = {}
    for _ in range(7):
        wide = {str(n): wide for n in range(10)}
    with pytest.raises(UserError, match="262144"):
        read_state_dict(torch_zip(tmp_path / "b.pth", pickle.dumps(wide, 2)))
    array = np.ones(2, np.float32)
    with pytest.raises(UserError, match=r"a\.b"):
        read_state_dict(save_torch(tmp_path / "c.pth", {"a": {"b": array}, "a.b": array}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: np.full_like(x, np.nan), r"conv1\.weight .*finite"),
        (lambda x: np.where(x == x.max(), np.inf, x), r"conv1\.weight has 1 of"),
        (lambda x: x.astype(np.int8), r"conv1\.weight contains int8"),
    ],
)
def test_invalid_values(state, tmp_path, damage, message):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, state | {"conv1.weight": damage(state["conv1.weight"])})
    with pytest.raises(UserError, match=message):
        import_weights(path, blank(SEGMENTATION))


def test_folders(state, tmp_path):
    write_safetensors(tmp_path / "a.safetensors", state)
    save_torch(tmp_path / "a.pth", {key: value + 1 for key, value in state.items()})
    (tmp_path / "config.json").write_text("{}")
    assert_loaded(import_weights(tmp_path, blank(SEGMENTATION)), state)
    write_safetensors(tmp_path / "b.safetensors", state)
    with pytest.raises(UserError, match=r"a\.safetensors, b\.safetensors"):
        read_state_dict(tmp_path)


def test_summary_and_record(tmp_path):
    path = save_torch(tmp_path / "a.pth", imagenet_state())
    imported = import_weights(path, blank(network(GSTOSpec())))
    lines = imported.summary.splitlines()
    assert lines[0].endswith("(HRNet ImageNet)")
    (loaded,) = [line for line in lines if line.startswith("  loaded ")]
    assert "stem (10)" in loaded
    assert all(f"stage{n} (" in loaded for n in (1, 2, 3, 4))
    (head,) = [line for line in lines if line.startswith("  initialized  head (8): ")]
    assert head.endswith(": head/bn, head/classifier, head/conv")
    (gates,) = [line for line in lines if line.startswith("  initialized  gates of GTM (25): ")]
    assert gates.endswith(": transition2/gtm/gate, transition3/gtm/gate")
    assert max(map(len, lines[1:])) <= 100
    assert "  unused       classifier (1): classifier.bias" in lines
    record = imported.record
    assert json.loads(json.dumps(record)) == record
    assert len(record["initialized"]["head"]) == 8 and record["unused"]["classifier"]
    assert sum(map(len, record["loaded"].values())) == record["num_loaded"]
