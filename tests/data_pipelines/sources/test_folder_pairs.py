"""Image and label folders: files left out are reported."""

import os
import re

import numpy as np
import pytest

from data_pipelines import DataError, FolderSource
from gsto_jax.files import is_hidden, to_unicode
from tests.data_pipelines.folder_trees import LABEL, add, names, write


def test_images_of_all_suffixes_are_used(tmp_path, opened):
    for image in ("a.png", "b.PNG", "c.jpg", "d.jpeg", "e.JPG", "f.bmp", "g.TIFF", "h.webp"):
        add(tmp_path, image, f"{image[0]}.{'PNG' if image[0] in 'bd' else 'png'}")
    add(tmp_path, "deep/er/a.Png", "deep/er/a.tif")
    source = opened()
    assert names(source) == [*"abcd", "deep/er/a", *"efgh"]
    assert source.warnings == ()
    for n in range(len(source)):
        np.testing.assert_array_equal(source[n]["label"], LABEL)


def test_suffix_case_is_ignored_and_leftovers_are_a_warning(tmp_path, opened):
    for image in ("a.png", "b.PNG"):
        add(tmp_path, image, f"{image[0]}_mask.PNG")
    for image in ("c.jpg", "d.JPEG", "e.jpg", "f.heic.jpg"):
        add(tmp_path, image)
    (tmp_path / "img/val/notes.txt").touch()
    (tmp_path / "img/val/raw.CR2").touch()
    source = opened(image_suffix=".png", label_suffix="_Mask.png")
    assert names(source) == ["a", "b"]
    (warning,) = source.warnings
    assert "5 files " in warning and "(1 .cr2, 1 .jpeg, 3 .jpg; " in warning
    assert warning.endswith(": c.jpg, d.JPEG, e.jpg ...")


def test_hidden_and_system_files_are_skipped(tmp_path, opened):
    add(tmp_path, "a.png", "a.png")
    for junk in (
        ".ipynb_checkpoints/a-checkpoint.png",
        "._a.png",
        "__MACOSX/a.png",
        "@eaDir/a.png",
    ):
        add(tmp_path, junk, junk)
    for junk in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "img/val" / junk).write_bytes(b"x")
    source = opened()
    assert names(source) == ["a"]
    assert source.warnings == ()
    assert is_hidden("x/.git/a.png")
    assert not any(map(is_hidden, ("x/a.b.png", "./x/a.png", "../a.png")))


def test_root_below_hidden_folder(tmp_path, make_folder_config):
    root = tmp_path / ".cache/data"
    add(root, "a.png", "a.png")
    fields = {"images": "img/{split}", "labels": "ids/{split}"}
    config = make_folder_config(root, image_suffix="", label_suffix="", **fields)
    assert len(FolderSource(config, "val")) == 1


def test_linked_folders_are_followed_and_cycles_end(tmp_path, opened):
    add(tmp_path / "disk", "far.png", "far.png")
    add(tmp_path, "near/a.png", "near/a.png")
    for kind in ("img", "ids"):
        folder = tmp_path / kind / "val"
        (folder / "linked").symlink_to(tmp_path / "disk" / kind / "val")
        (folder / "near/back").symlink_to(folder)
        (tmp_path / "disk" / kind / "val/itself").symlink_to(".")
        (folder / "b.png").symlink_to(folder / "near/a.png")
    source = opened()
    assert names(source) == ["b", "linked/far", "near/a"]
    np.testing.assert_array_equal(source[1]["label"], LABEL)


def test_broken_link(tmp_path, opened):
    add(tmp_path, "a.png", "a.png")
    (tmp_path / "img/val/b.png").symlink_to(tmp_path / "gone.png")
    write(tmp_path / "ids/val/b.png", LABEL)
    with pytest.raises(DataError, match=r"1 of the 4 .*b\.png"):
        opened()


def test_labels_may_lie_in_the_image_folder(tmp_path, opened):
    for name in "ab":
        add(tmp_path, f"{name}.png")
        write(tmp_path / f"img/val/{name}_mask.png", LABEL)
    source = opened(labels="img/{split}", label_suffix="_mask.png")
    assert (names(source), source.warnings) == (["a", "b"], ())
    source = opened(labels="img/{split}", image_suffix=".png", label_suffix="_MASK.png")
    assert (names(source), source.warnings) == (["a", "b"], ())
    with pytest.raises(DataError, match=r"label_suffix .*images and labels"):
        opened(labels="img/{split}")


def test_labels_may_lie_below_the_image_folder(tmp_path, opened):
    for name in "ab":
        add(tmp_path, f"{name}.png")
        write(tmp_path / f"img/val/masks/{name}.png", LABEL)
    assert names(opened(labels="img/{split}/masks")) == ["a", "b"]
    assert names(opened(images="img/{split}/masks", labels="img/{split}")) == ["a", "b"]


def test_images_without_label(tmp_path, opened):
    for n in range(7):
        add(tmp_path, f"{n}.jpg", f"{n}.png" if n < 2 else None)
    write(tmp_path / "ids/val/old.png", LABEL)
    with pytest.raises(DataError, match=r"5 of the 7 .*: 2\.jpg, 3\.jpg, 4\.jpg \.\.\.") as raised:
        opened()
    assert re.search(r"\b1 labels .*: old\.png", str(raised.value))
    assert len(opened(eval_size=2)) == 2, "the first so many have labels"


def test_label_files_that_are_no_images(tmp_path, opened):
    add(tmp_path, "a.jpg")
    (tmp_path / "ids/val").mkdir(parents=True)
    (tmp_path / "ids/val/a.json").touch()
    with pytest.raises(DataError, match=r"a\.png .*a\.json"):
        opened()


def test_labels_without_image(tmp_path, opened):
    add(tmp_path, "a.jpg", "a.png")
    for name in ("z", "b", "c", "d"):
        write(tmp_path / f"ids/val/{name}.png", LABEL)
    (warning,) = opened().warnings
    assert "ids/val: 4 labels " in warning
    assert warning.endswith("b.png, c.png, d.png ...")


def test_two_labels_of_one_image(tmp_path, opened):
    add(tmp_path, "a.jpg", "a.png")
    write(tmp_path / "ids/val/a.bmp", LABEL)
    with pytest.raises(DataError, match=r"a\.jpg .*: a\.bmp, a\.png. .*label_suffix"):
        opened()
    assert len(opened(label_suffix=".png")) == 1


def test_images_that_differ_in_suffix_get_unique_names(tmp_path, opened):
    for image in ("a.jpg", "a.png", "b.png"):
        add(tmp_path, image, f"{image[0]}.png")
    source = opened()
    assert names(source) == ["a_jpg", "a_png", "b"]
    assert source[0]["image"][0, 0, 0] != source[1]["image"][0, 0, 0]
    assert "2 images " in source.warnings[0] and "suffix" in source.warnings[0]
    write(tmp_path / "ids/val/a2.png", LABEL)
    (tmp_path / "val.txt").write_text(
        "img/val/a.jpg ids/val/a.png\nimg/val/a.png ids/val/a2.png\nimg/val/a.png ids/val/a.png\n"
    )
    listed = opened(list_file="{split}.txt")
    assert names(listed) == ["img/val/a_jpg", "img/val/a_png", "img/val/a_png_2"]


def test_file_name_that_is_not_utf8(tmp_path, opened):
    odd = os.fsdecode(b"caf\xe9 \x80")
    add(tmp_path, f"{odd}.png", f"{odd}.png")
    source = opened()
    assert names(source) == ["café €"]
    assert source[0]["index"] == 0
    (tmp_path / "ids/val" / f"{odd}.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 1 .*caf"):
        opened()
    assert to_unicode("日本") == "日本"


def test_accents_pair_however_they_are_encoded(tmp_path, opened):
    composed, decomposed = "caf\u00e9 1", "cafe\u0301 1"
    add(tmp_path, f"{composed}.JPG", f"{decomposed}.PNG")
    source = opened()
    assert names(source) == [composed]
    np.testing.assert_array_equal(source[0]["label"], LABEL)
