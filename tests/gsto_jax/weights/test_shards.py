"""Weights in several files with an index."""

import hashlib
import json

import pytest

from gsto_jax import UserError
from gsto_jax.weights import import_weights, read_state_dict
from gsto_jax.weights.files import write_safetensors
from tests.gsto_jax.weights.wrapped_states import (
    SEGMENTATION,
    add_prefix,
    assert_loaded,
    blank,
    save_torch,
)


@pytest.fixture
def sharded(state, tmp_path):
    """Returns the index of three shards, and a function that rewrites it."""
    keys, folder = sorted(state), tmp_path / "model"
    folder.mkdir()
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    for n, name in enumerate(names):
        write_safetensors(folder / name, {key: state[key] for key in keys[n::3]})
    index = folder / "model.safetensors.index.json"

    def write(**changes):
        shard_of = {key: names[n % 3] for n, key in enumerate(keys)} | changes
        table = {key: name for key, name in shard_of.items() if name}
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))

    write()
    return index, write


def test_shards_with_an_index(state, sharded):
    index, _ = sharded
    for path in (index, index.parent, str(index)):
        imported = import_weights(path, blank(SEGMENTATION))
        assert_loaded(imported, state)
        assert imported.path == index and imported.summary.startswith(
            f"{imported.result.num_arrays} of {imported.result.num_arrays} arrays from {index} ("
        )
    files = [index, *sorted(index.parent.glob("*.safetensors"))]
    data = b"".join(path.read_bytes() for path in files)
    assert imported.sha256 == hashlib.sha256(data).hexdigest()


def test_torch_shards(state, tmp_path):
    keys = sorted(state)
    for n in (0, 1):
        part = add_prefix("model.", {key: state[key] for key in keys[n::2]})
        save_torch(tmp_path / f"pytorch_model-{n}.bin", part)
    table = {f"model.{key}": f"pytorch_model-{n % 2}.bin" for n, key in enumerate(keys)}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert_loaded(import_weights(tmp_path, blank(SEGMENTATION)), state)


def test_mismatched_shards_and_indices(state, sharded):
    index, write = sharded
    shard = index.parent / "model-00002-of-00003.safetensors"

    def attempt(problem):
        with pytest.raises(UserError, match=problem):
            read_state_dict(index)

    write(**{"bn1.bias": "model-00009-of-00003.safetensors"})
    attempt(r"model-00009-of-00003\.safetensors is missing")
    write(**{"extra.weight": shard.name})
    attempt(rf"{shard.name} lacks extra\.weight")
    write(**{"bn1.bias": None})
    attempt(r"bn1\.bias")
    for name in ("../secret.safetensors", "/etc/passwd", "a\\b", "..", "", 3):
        text = json.dumps({"weight_map": {"bn1.bias": name}})
        index.write_text(text)
        attempt(r"bn1\.bias")
    for text in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 10**5, "\xff"):
        index.write_bytes(text.encode("latin-1"))
        attempt("damaged index")
    write()
    arrays = read_state_dict(shard)
    write_safetensors(shard, arrays | {"conv1.weight": state["conv1.weight"]} | arrays)
    other = next(key for key in arrays if key != "conv1.weight")
    first = index.parent / "model-00001-of-00003.safetensors"
    write_safetensors(first, read_state_dict(first) | {other: arrays[other]})
    attempt(rf"{first.name} contains")
    first.write_bytes(first.read_bytes()[:100])
    attempt("damaged")
    first.unlink()
    attempt(rf"{first.name} is missing")
