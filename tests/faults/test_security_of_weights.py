"""Weight files written to exhaust memory or time, or to run code."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from gsto_jax import UserError
from gsto_jax.weights import read_state_dict
from tests.faults.allocations import allocating_less_than


def safetensors(header, numbers=b"", length=None):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


@pytest.mark.parametrize(
    "data",
    [
        safetensors({}, length=2**63),
        safetensors(b"[" * 10**6),
        safetensors({"a": {"dtype": "F32", "shape": [9] * 10**5, "data_offsets": [0, 0]}}),
        safetensors({"a": {"dtype": "F32", "shape": [2**61], "data_offsets": [0, 4]}}, b"1234"),
        safetensors(
            {k: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for k in "ab"}, b"1234"
        ),
    ],
    ids=["length", "depth", "shape", "size", "overlap"],
)
def test_safetensors_with_inconsistent_header(tmp_path, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with allocating_less_than(2**20), pytest.raises(UserError, match=rf"^{path} .*: download"):
        read_state_dict(path)


def test_safetensors_header_size_limit(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 10**8 + 1))
    os.truncate(path, 2 * 10**8)
    with allocating_less_than(2**20), pytest.raises(UserError, match="header too large"):
        read_state_dict(path)


def torch_zip(path, pickled, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(4))


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_weights_with_inconsistent_sizes(tmp_path, monkeypatch):
    """Sizes and endless work; `tests/gsto_jax/weights/test_torch_file.py` has the rest."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pth"
    torch_zip(path, b"\x80\x02" + b"0" * 2**24 + b".")
    with pytest.raises(UserError, match="describes its tensors in more than"):
        read_state_dict(path)
    old = b"".join(
        pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    path.write_bytes(old + b"\x80\x02X" + struct.pack("<I", 2**24) + bytes(2**24) + b".")
    with pytest.raises(UserError, match="describes its tensors in more than"):
        read_state_dict(path)
    torch_zip(path, bytes(2**27), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_state_dict(path)
    torch_zip(path, pickle.dumps({"a": Command()}, protocol=2))
    with pytest.raises(UserError, match=r"refers to (posix|nt).system, .*not executed"):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "opcodes",
    [
        # A search from the bottom of this stack for each mark would take hours.
        b"N" * 10**6 + b"(t" * 10**5,
        # A memo as long as its largest index takes 32 GiB.
        b"}r\xff\xff\xff\xff",
        # Hashing a tuple of the same two tuples, forty deep, takes days; so does showing it.
        b"})" + b"q\x00h\x00\x86" * 40 + b"K\x01s",
        b"ccollections\nOrderedDict\n)" + b"q\x00h\x00\x86" * 40 + b"K\x01\x86\x85\x85R",
        b"}X\x01\0\0\0a" + _REBUILD + b"(NK\0)" + b"q\x00h\x00\x86" * 40 + b")tRs",
        # An integer of 2^31 bytes, a frame of 2^60.
        b"\x8b\xff\xff\xff\x7f",
        b"\x95" + struct.pack("<Q", 2**60),
    ],
    ids=["marks", "memo", "key", "pairs", "shape", "integer", "frame"],
)
def test_pickles_that_exhaust_time_or_memory(tmp_path, opcodes):
    path = tmp_path / "a.pth"
    torch_zip(path, b"\x80\x04" + opcodes + b".")
    with allocating_less_than(2**26), pytest.raises(UserError, match=f"^{path} "):
        read_state_dict(path)


def test_pickle_cannot_change_a_class(tmp_path):
    """The state of a pickled object could set attributes."""
    path, good = tmp_path / "a.pth", Path(__file__).parents[1] / "golden" / "j_torch_zip.pth"
    before = read_state_dict(good).keys()
    state = b"N}X\x0b\0\0\0__setitem__K\x01s\x86"
    torch_zip(path, b"\x80\x02ccollections\nOrderedDict\n" + state + b"b.")
    with pytest.raises(UserError):
        read_state_dict(path)
    assert read_state_dict(good).keys() == before
