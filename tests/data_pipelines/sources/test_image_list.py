"""List files of images and labels."""

import os

import numpy as np
import pytest

from data_pipelines import DataError
from data_pipelines.files.disk import decode_text
from tests.data_pipelines.folder_trees import LABEL, add, names, write

ENCODINGS = {
    "plain": lambda text: text.encode(),
    "bom": lambda text: text.encode("utf-8-sig"),
    "powershell": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "utf-16 big endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "latin-1": lambda text: text.encode("latin-1"),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
    "decomposed": lambda text: text.replace("é", "e\u0301").encode(),
    "backslashes": lambda text: text.replace("/", "\\").encode(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "line", ["{} {}", "{}\t{}", "{},{}", "{}  ;  {}", '"{}" "{}"', ' {}\t"{}" ']
)
def test_list_encodings_and_separators(tmp_path, opened, encoding, line):
    pairs = [("é.jpg", "é.png"), ("a.jpg", "a.png")]
    for image, label in pairs:
        add(tmp_path, image, label)
    lines = [line.format(f"img/val/{a}", f"ids/val/{b}") for a, b in pairs]
    text = "# image label\n\n" + "\n".join(lines) + "\n\n"
    (tmp_path / "val.txt").write_bytes(ENCODINGS[encoding](text))
    source = opened(list_file="{split}.txt")
    assert len(source) == 2
    assert names(source)[1] == "img/val/a"
    np.testing.assert_array_equal(source[0]["label"], LABEL)


@pytest.mark.parametrize("line", ["{} {}", "{}\t{}", "{}, {}", '"{}" "{}"', "{}   {}"])
def test_names_with_spaces_in_lists(tmp_path, opened, line):
    add(tmp_path, "my photo, the 1st.jpg", "my mask  1.png")
    text = line.format("img/val/my photo, the 1st.jpg", "ids/val/my mask  1.png")
    (tmp_path / "val.txt").write_text(text)
    assert names(opened(list_file="{split}.txt")) == ["img/val/my photo, the 1st"]


def test_list_with_duplicate_images(tmp_path, opened):
    for name in "abc":
        add(tmp_path, f"{name}.jpg", f"{name}.png")
    pairs = [f"img/val/{image}.jpg ids/val/{label}.png" for image, label in ("aa", "bb", "cc")]
    (tmp_path / "val.txt").write_text("\n".join(pairs))
    assert opened(list_file="{split}.txt").warnings == ()
    lines = [*pairs, pairs[0], "img/val/b.jpg ids/val/c.png"]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    (warning,) = opened(list_file="{split}.txt").warnings
    assert "2 images more than once, 1 of them " in warning
    assert warning.endswith(f"{tmp_path / 'img/val/a.jpg'}, {tmp_path / 'img/val/b.jpg'}")


def test_list_name_that_starts_with_a_hash(tmp_path, opened):
    write(tmp_path / "#1 a.png", LABEL)
    add(tmp_path, "a.jpg", "a.png")
    (tmp_path / "val.txt").write_text("# 1.png a.png\n#1 a.png ids/val/a.png\n")
    assert names(opened(list_file="{split}.txt")) == ["#1 a"]


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_column_names_are_skipped(tmp_path, opened, separator):
    add(tmp_path, "a 1.jpg", "a 1.png")
    lines = ["# made by a script", f"image{separator}label"]
    lines += [f"img/val/a 1.jpg{separator}ids/val/a 1.png"] * 2
    (tmp_path / "val.txt").write_text("\n".join(lines))
    assert len(opened(list_file="{split}.txt")) == 2
    (tmp_path / "val.txt").write_text("\n".join([*lines, f"image{separator}label"]))
    with pytest.raises(DataError, match="2 of the 6 files"):
        opened(list_file="{split}.txt")


def test_ambiguous_list_line(tmp_path, opened):
    for name in ("a", "a b", "b c", "c"):
        write(tmp_path / name, LABEL) if "." in name else (tmp_path / name).touch()
    (tmp_path / "val.txt").write_text("a b c")
    with pytest.raises(DataError, match=r"\('a', 'b c'\) .*\('a b', 'c'\).*tab"):
        opened(list_file="{split}.txt")
    (tmp_path / "val.txt").write_text("no such pair here")
    with pytest.raises(DataError, match="line 1: 'no such pair here'"):
        opened(list_file="{split}.txt")


@pytest.mark.parametrize(
    "name", ["../x.png", "..\\x.png", "/x.png", "C:\\x.png", "C:/x.png", "a/../x"]
)
def test_list_paths_must_stay_below_the_root(tmp_path, opened, name):
    (tmp_path / "val.txt").write_text(f"{name}\tlabel.png")
    with pytest.raises(DataError, match=r"line 1.*outside"):
        opened(list_file="{split}.txt")


def test_list_with_names_that_are_not_utf8(tmp_path, opened):
    odd = os.fsdecode(b"\xff\xe9")
    add(tmp_path, f"{odd}.jpg", f"{odd}.png")
    (tmp_path / "val.txt").write_bytes(b"img/val/\xff\xe9.jpg ids/val/\xff\xe9.png\n")
    assert names(opened(list_file="{split}.txt")) == ["img/val/ÿé"]
    with pytest.raises(DataError, match=r"val\.txt .*UTF-8"):
        decode_text(b"\xff\xfea", "val.txt")
