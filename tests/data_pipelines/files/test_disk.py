"""File names of other systems."""

import tarfile
import zipfile

import pytest

from data_pipelines import DataError
from data_pipelines.files.archives import Downloads
from data_pipelines.files.disk import list_files, strip_suffix, unique_names


def test_archives_of_mac_and_upper_case_suffixes(tmp_path):
    images = ["images/a.JPG", "images/b.jpg"]
    junk = ["__MACOSX/images/._a.jpg", "images/._a.jpg", "images/.DS_Store"]
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        for name in (*images, *junk):
            archive.writestr(name, b"x")
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name in (*images, *junk):
            tar.addfile(tarfile.TarInfo(f"./two/{name}"))
    (tmp_path / "names.txt").write_bytes("é\n".encode("utf-16"))
    with Downloads(tmp_path) as downloads:
        names = [match["name"] for match in downloads.match(r"images/(?P<name>[^/]+)\.jpg")]
        assert sorted(names) == ["a", "a", "b", "b"]
        assert downloads.read_text("names.txt") == "é\n"


@pytest.mark.parametrize(
    ("stems", "suffixes", "expected"),
    [
        (["a", "b"], [".png", ".png"], ["a", "b"]),
        (["a", "A"], [".png", ".PNG"], ["a_png", "A_PNG_2"]),
        (["a", "a", "a_png"], [".jpg", ".png", ".jpg"], ["a_jpg", "a_png", "a_png_2"]),
        (["e\u0301", "é"], [".jpg", ".png"], ["e\u0301_jpg", "é_png"]),
        (["a", "a_gates"], [".jpg", ".jpg"], ["a", "a_gates_2"]),
        (["a_branches", "a"], [".jpg", ".jpg"], ["a_branches", "a_2"]),
        (["caf\udce9"], [".png"], ["café"]),
    ],
)
def test_unique_names(stems, suffixes, expected):
    assert unique_names(stems, suffixes) == expected


def test_unreadable_folder(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/gone: No such file"):
        list_files(tmp_path / "gone")


@pytest.mark.parametrize(
    ("path", "suffix", "stem"),
    [
        ("a/b.PNG", "", "a/b"),
        ("a/b.heic", "", None),
        ("a/.png", ".png", None),
        ("x_IDS.png", "_ids.png", "x"),
        ("a.b.jpg", "", "a.b"),
        ("b", "", None),
    ],
)
def test_strip_suffix(path, suffix, stem):
    assert strip_suffix(path, suffix) == stem
