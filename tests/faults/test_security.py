"""Untrusted files: no code is run, no path escapes, no size is unbounded."""

import gzip
import io
import json
import pickle
import re
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io
import zstandard

from data_pipelines import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.images import decode_colors, decode_image, decode_label, read_image_header
from data_pipelines.files.json import read_json
from data_pipelines.files.limits import MAX_FILE_BYTES, MIN_EXPANSION_LIMIT
from data_pipelines.files.matlab import read_mat
from data_pipelines.files.tiles import Tiles
from gsto_jax import UserError
from gsto_jax.image_files import MAX_PIXELS, DecodeOptions
from gsto_jax.predict import media
from gsto_jax.runs import checkpoint
from gsto_jax.weights import read_state_dict
from tests.data_pipelines.prepared_sets import build, opened
from tests.faults.allocations import allocating_less_than


def png_head(width, height):
    def chunk(name, body):
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(16385, 8192), (2**31 - 1, 2**31 - 1), (40000, 40000)])
def test_image_header_with_huge_size(tmp_path, size):
    data = png_head(*size)
    rule = DecodeOptions()
    for read in (
        lambda: decode_image(data, "a.png", rule),
        lambda: read_image_header(data, "a.png"),
        lambda: decode_label(data, "a.png", rule),
        lambda: decode_colors(data, "a.png", rule),
    ):
        with pytest.raises(DataError, match=r"a\.png: .*134 million"):
            read()
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png: .*134 million"):
        media.read_image(tmp_path / "a.png")


# Pillow warns from there on too.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_image_size_limit():
    with pytest.raises(DataError, match=r"16385x8192, .*134 million"):
        decode_image(png_head(16385, 8192), "a.png", DecodeOptions())
    assert read_image_header(png_head(16384, 8192), "a.png").size == (8192, 16384)
    assert MAX_PIXELS == 16384 * 8192


def tile(packed, height=16, width=16, channels=3, side=16):
    head = struct.pack("<4sIIHH", b"GTL1", height, width, channels, side)
    return head + struct.pack("<I", len(packed)) + packed


def test_tile_that_expands():
    whole = tile(zstandard.compress(bytes(16 * 16 * 3)))
    assert not np.asarray(Tiles(whole)).any()
    with pytest.raises(DataError, match=r"^the image .*tile 0 .*size"):
        np.asarray(Tiles(tile(zstandard.compress(bytes(2**26))), "the image"))
    with pytest.raises(DataError, match="too large"):
        Tiles(tile(b"", 2**31, 2**31, 3, 2**16 - 1))
    with pytest.raises(DataError, match="no tiles"):
        Tiles(tile(b"", channels=2**16 - 1))


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_member_path_leaves_archive(tmp_path, name, kind):
    path = tmp_path / f"archive.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match=rf"archive\.{kind} .*escapes"):
        Downloads(tmp_path)


def test_links_in_an_archive_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "archive.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    with Downloads(tmp_path) as downloads:
        assert downloads.names == []


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archive_that_expands(tmp_path, kind):
    """A compressed file that would expand more than a hundredfold."""
    bomb = gzip.compress(bytes(MIN_EXPANSION_LIMIT + 2**22), 9)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.tar", bytes(MIN_EXPANSION_LIMIT + 2**22))
    else:
        (tmp_path / "a.tar.gz").write_bytes(bomb)
    with pytest.raises(DataError, match=r"(inner\.tar|a\.tar\.gz) .*\d+ bytes expand"):
        Downloads(tmp_path, tmp_path)
    assert not list(tmp_path.glob("scratch-*"))


def test_archives_nested_without_end(tmp_path):
    data = b"end"
    for _ in range(6):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("inner.zip", data)
        data = file.getvalue()
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="4 deep"):
        Downloads(tmp_path, tmp_path)


def test_member_header_with_huge_size(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.json", b"12345")
        archive.getinfo("x.json").file_size = MAX_FILE_BYTES + 1
    info = tarfile.TarInfo("y.json")
    info.size = 2**40
    (tmp_path / "b.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    head = tarfile.TarInfo("z")
    head.type, head.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "c.tar").write_bytes(head.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with Downloads(tmp_path) as downloads:
        with pytest.raises(DataError, match=r"x\.json .*at most"):
            downloads.read("x.json")
        assert len(downloads.broken) == 2
        assert "y.json" in downloads.broken[0]
        assert "c.tar" in downloads.broken[1]


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("name", ["x.json", "inner.tar"])
def test_unbounded_compression_is_refused(tmp_path, kind, name):
    """Python expands bzip2 and LZMA members at once."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        archive.writestr(name, bytes(2**20))
    with Downloads(tmp_path) as downloads:
        wrong = f"{name} .*must be stored or deflated"
        if name == "x.json":
            with pytest.raises(DataError, match=wrong):
                downloads.read(name)
        else:
            assert re.search(wrong, downloads.broken[0])


def test_member_larger_than_its_header_states(tmp_path):
    path, size = tmp_path / "a.zip", 2**26
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.json", bytes(size))
    says = path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 5))
    path.write_bytes(says)
    damaged = pytest.raises(DataError, match=r"x\.json .*CRC")
    with Downloads(tmp_path) as downloads, allocating_less_than(2**20), damaged:
        downloads.read("x.json")


def test_mat_element_that_expands_beyond_the_limit(monkeypatch):
    def packed(size, whole=True):
        data = zlib.compress(bytes(size), 9)
        data = data if whole else data[:-4]
        return struct.pack("<II", 15, len(data)) + data

    monkeypatch.setattr("data_pipelines.files.matlab.MAX_TEXT_BYTES", 30_000)
    data = bytes(126) + b"IM" + packed(30_000, whole=False) + packed(2**26)
    refused = pytest.raises(ValueError, match=r"\b30000 bytes")
    with allocating_less_than(2**21), refused:
        read_mat(data, "LabelMap")


def test_mat_that_expands(monkeypatch):
    file = io.BytesIO()
    scipy.io.savemat(file, {"LabelMap": np.zeros((200, 200), np.uint8)}, do_compression=True)
    assert read_mat(file.getvalue(), "LabelMap").shape == (200, 200)
    monkeypatch.setattr("data_pipelines.files.matlab.MAX_TEXT_BYTES", 30_000)
    with pytest.raises(ValueError, match=r"\b30000 bytes"):
        read_mat(file.getvalue(), "LabelMap")


def test_mat_header_with_huge_shape():
    file, cells = io.BytesIO(), np.empty((3, 3), object)
    cells[:] = 1
    scipy.io.savemat(file, {"LabelMap": cells})
    with pytest.raises(ValueError, match=r"it is (cell|object)"):
        read_mat(file.getvalue(), "LabelMap")
    file = io.BytesIO()
    scipy.io.savemat(file, {"LabelMap": np.zeros((3, 3), np.uint8)})
    data = file.getvalue().replace(struct.pack("<ii", 3, 3), struct.pack("<ii", 2**30, 2**30))
    with pytest.raises(ValueError, match=r"\(1073741824, 1073741824\)"):
        read_mat(data, "LabelMap")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 10**6, "deeply"),
        (b"[" + b"9" * 10**5 + b"]", "not valid JSON .*digits"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
def test_json_with_extreme_nesting_or_numbers(data, message):
    with pytest.raises(DataError, match=rf"^a\.json .*{message}"):
        read_json(data, "a.json")


def test_json_size_limit(monkeypatch):
    monkeypatch.setattr("data_pipelines.files.json.MAX_TEXT_BYTES", 10)
    assert read_json(b"[1, 2, 3 ]", "a.json") == [1, 2, 3]
    with pytest.raises(DataError, match=r"^a\.json .*at most 10 bytes; got 11\b"):
        read_json(b"[1, 2, 3  ]", "a.json")


def test_errors_quote_at_most_a_line(tmp_path):
    """A local header states a name of 60000 bytes, which zipfile quotes."""
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 2**17)
    data = bytearray(path.read_bytes())
    data[26:28] = struct.pack("<H", 60000)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is damaged or truncated \(File name in") as error:
        read_state_dict(path)
    assert len(str(error.value)) < 400
    path.rename(tmp_path / "a.zip")
    with Downloads(tmp_path) as downloads, pytest.raises(DataError, match="Cannot read") as error:
        downloads.read("archive/data.pkl")
    assert len(str(error.value)) < 500


def test_record_names_must_stay_below_the_results(tmp_path):
    final = build(tmp_path, "coco_keypoints")
    (final / "names-val.txt").write_text("../../b\n")
    with pytest.raises(DataError, match=r"'\.\./\.\./b'"):
        opened(tmp_path, "coco_keypoints", "val")


def test_checkpoints_are_read_without_pickle(tmp_path, monkeypatch, train):
    """Neither resuming from a checkpoint nor inspecting one unpickles anything."""
    train(tmp_path, stop_at=2)

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    result = checkpoint.read_record(tmp_path / "checkpoints" / "2")
    assert result["data"] == {"batches": 2}
    train(tmp_path, stop_at=4)
    assert checkpoint.list_steps(tmp_path / "checkpoints") == [2, 4]


def test_prepared_dataset_without_a_feature(tmp_path):
    """Found by fuzzing: the list of features is an untrusted file too."""
    final = build(tmp_path, "coco_keypoints")
    features = final / "features.json"
    result = json.loads(features.read_text())
    del result["featuresDict"]["features"]["image_id"]
    features.write_text(json.dumps(result))
    with pytest.raises(DataError, match=rf"^{final} .*image_id"):
        opened(tmp_path, "coco_keypoints", "val")
