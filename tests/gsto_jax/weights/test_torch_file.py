"""Files of `torch.save`: read without running their pickles, refused if damaged."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from gsto_jax import UserError
from gsto_jax.weights import HRNET_FORMAT, export_weights, read_state_dict
from tests.gsto_jax.weight_states import load_variables, network, random_state, shapes_of, torch_zip

GOLDEN_FILES = Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("name", ["j_torch_zip.pth", "j_torch_before_1_6.pth"])
def test_reads_files_written_by_pytorch(golden, name):
    loaded, expected = read_state_dict(GOLDEN_FILES / name), golden("j")
    loaded = {key.removeprefix("state_dict."): value for key, value in loaded.items()}
    assert list(loaded) == list(expected)
    for key, value in loaded.items():
        named = key if key.startswith(("float", "bfloat", "int", "uint", "bool")) else "float32"
        assert value.dtype == named and value.shape == expected[key].shape, key
        np.testing.assert_array_equal(value.astype(np.float64), expected[key], err_msg=key)


def test_damaged_legacy_files(tmp_path):
    data = (GOLDEN_FILES / "j_torch_before_1_6.pth").read_bytes()
    path = tmp_path / "old.pth"

    def attempt(changed, problem):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=problem):
            read_state_dict(path)

    def swap(old, new):
        assert data.count(old) == 1 and len(old) == len(new)
        return data.replace(old, new)

    for cut in (5, 20, len(data) // 2, len(data) - 1):
        attempt(data[:cut], "damaged")
    attempt(pickle.dumps(7, 2) + data, r"torch\.save")
    attempt(swap(b"little_endian", b"little_Endian"), "big-endian")
    attempt(swap(b"DoubleStorage", b"QUInt8Storage"), r"torch\.QUInt8Storage")
    three = struct.pack("<q3f", 12, 0, 1, 2)  # a storage's length, and how it begins
    attempt(swap(three, struct.pack("<q", 2**60) + three[8:]), "storage")
    lists = [n for n in range(len(data)) if data[n : n + 2] == b"\x80\x02"]
    last = lists[-1]
    keys = pickle.loads(data[last:])
    rest = data[last + len(pickle.dumps(keys, 2)) :]
    assert data[last:] == pickle.dumps(keys, 2) + rest
    attempt(data[:last] + pickle.dumps(keys[:-1], 2) + rest, "storage|damaged")
    attempt(data[:last] + pickle.dumps(["x", *keys[1:]], 2) + rest, "belongs to no tensor")
    attempt(data[:last] + pickle.dumps(7, 2) + rest, "damaged")


class Call:
    """Pickles as a function call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_are_never_run(tmp_path, protocol, legacy):
    proof = tmp_path / "it_ran"
    for call in (Call(os.system, f"touch {proof}"), Call(eval, f"open({str(proof)!r}, 'w')")):
        pickled = pickle.dumps({"conv1.weight": call}, protocol)
        path = tmp_path / "weights.pth"
        if legacy:
            head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
            path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + pickled)
            with path.open("ab") as file:
                file.write(pickle.dumps([], 2))  # the keys of its storages
        else:
            torch_zip(path, pickled)
        name = "posix.system|builtins.eval|__builtin__.eval"
        with pytest.raises(UserError, match=name):
            read_state_dict(path)
        assert not proof.exists()
    pickle.loads(pickle.dumps(Call(os.system, f"touch {proof}"), protocol))
    assert proof.exists(), "the test could not have failed"


def test_unsupported_names_and_opcodes(tmp_path):
    scalar = pickle.dumps({"best": np.float64(1)}, 2)
    with pytest.raises(UserError, match=r"best refers to numpy\.\S*scalar"):
        read_state_dict(torch_zip(tmp_path / "a.pth", scalar))
    with pytest.raises(UserError, match="opcode"):
        read_state_dict(torch_zip(tmp_path / "b.pth", pickle.dumps({"a": {1, 2}}, 4)))
    with pytest.raises(UserError, match="opcode"):
        read_state_dict(torch_zip(tmp_path / "c.pth", b"(X\x02\0\0\0idios\nsystem\n."))


def tensor(kind=b"FloatStorage", count=6, offset=0, size=(2, 3), stride=(3, 1), key=b"0"):
    """A pickle of a dict with one tensor "x"."""

    def numbers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"t"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu")
    storage += b"J" + struct.pack("<i", count) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", offset)
    call += numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + text(b"x") + call + b"s."


def test_tensors_view_storages(tmp_path):
    data = np.arange(6, dtype=np.float32)

    def read(data=data, **kwargs):
        return read_state_dict(torch_zip(tmp_path / "x.pth", tensor(**kwargs), s0=data.tobytes()))[
            "x"
        ]

    np.testing.assert_array_equal(read(), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read(size=(3, 2), stride=(1, 3)), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read(size=(2,), stride=(1,), offset=4), [4, 5])
    assert read(size=(), stride=(), offset=5) == 5
    assert read(size=(0, 3), stride=(3, 1)).shape == (0, 3)
    half = np.array([1.5, -2], jnp.bfloat16)
    loaded = read(half, kind=b"BFloat16Storage", count=2, size=(2,), stride=(1,))
    assert loaded.dtype == jnp.bfloat16 and loaded.tolist() == [1.5, -2]
    for bad in (
        {"size": (2, 4), "stride": (4, 1)},
        {"offset": 1},
        {"size": (10**9,), "stride": (0,)},
        {"size": (2, 3), "stride": (2**30, 1)},
    ):
        with pytest.raises(UserError, match="larger than its storage"):
            read(**bad)
    for bad in ({"offset": -1}, {"size": (-2, 3)}, {"size": (2,)}):
        with pytest.raises(UserError, match="impossible tensor"):
            read(**bad)
    with pytest.raises(UserError, match="damaged"):
        read(size=(0, 2**30, 2**30, 2**30), stride=(1, 1, 1, 1))
    with pytest.raises(UserError, match=r"storage 0 .*4000000000"):
        read(count=10**9)
    with pytest.raises(UserError, match=r"storage 1"):
        read(key=b"1")
    with pytest.raises(UserError, match=r"torch\.QUInt8Storage"):
        read(kind=b"QUInt8Storage")


def test_damaged_zip_files(tmp_path):
    whole = tmp_path / "whole.pth"
    export_weights(
        whole,
        load_variables(random_state(network()), shapes_of(network()), HRNET_FORMAT),
        HRNET_FORMAT,
    )
    data = whole.read_bytes()
    for cut in (5, len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pth").write_bytes(data[:cut])
        with pytest.raises(UserError, match="damaged"):
            read_state_dict(tmp_path / "cut.pth")
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    (tmp_path / "changed.pth").write_bytes(changed)
    with pytest.raises(UserError, match=r"damaged"):
        read_state_dict(tmp_path / "changed.pth")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(UserError, match="compressed"):
        read_state_dict(tmp_path / "packed.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(UserError, match=r"torch\.save"):
        read_state_dict(tmp_path / "other.pth")
    for pickled in (b"", b"\x80\x02}", b"\x80\x02h\x05.", b"\x80\x02u.", b"\x80\x02K\x01K\x02s."):
        with pytest.raises(UserError, match="damaged"):
            read_state_dict(torch_zip(tmp_path / "pickle.pth", pickled))
    with pytest.raises(UserError, match="keys"):
        read_state_dict(torch_zip(tmp_path / "pickle.pth", b"\x80\x02})K\x02s."))


def test_checkpoints_without_a_state_dict(tmp_path):
    state = {"epoch": 3, "rate": 0.1, "best": None, "done": True, "state_dict": {}}
    with pytest.raises(UserError, match="no tensor"):
        read_state_dict(torch_zip(tmp_path / "a.pth", pickle.dumps(state, 2)))
    with pytest.raises(UserError, match="contains a list"):
        read_state_dict(torch_zip(tmp_path / "a.pth", pickle.dumps([1], 2)))
