"""Folders and lists as people's systems leave them: nothing is passed over in silence."""

import os
import random
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from data_pipelines import DataError, FolderSource
from data_pipelines.files.archives import Downloads
from data_pipelines.files.disk import decode_text, list_files, unique_names, without_suffix
from gsto_jax.files import is_hidden, readable

LABEL = np.array([[0, 1, 2, 2, 1, 255]] * 4, np.uint8)


def write(path, array):
    """Writes an image file, whatever its suffix is written like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), array)[1].tobytes())


def add(root, image, label=None):
    """Adds an image of a color of its own, and its label unless there shall be none."""
    value = random.Random(os.fsencode(image)).randrange(20, 250)
    write(root / "img/val" / image, np.full((4, 6, 3), value, np.uint8))
    if label:
        write(root / "ids/val" / label, LABEL)


@pytest.fixture
def opened(tmp_path, make_folder_config):
    """Opens the split `val` of img/ and ids/ below `tmp_path`, with changed settings."""

    def build(**changes):
        fields = {"images": "img/{split}", "labels": "ids/{split}"}
        fields |= {"image_suffix": "", "label_suffix": ""}
        return FolderSource(make_folder_config(tmp_path, **fields | changes), "val")

    return build


def names(source):
    return [source.name(n) for n in range(len(source))]


def test_images_of_all_suffixes_are_used(tmp_path, opened):
    for image in ("a.png", "b.PNG", "c.jpg", "d.jpeg", "e.JPG", "f.bmp", "g.TIFF", "h.webp"):
        add(tmp_path, image, f"{image[0]}.{'PNG' if image[0] in 'bd' else 'png'}")
    add(tmp_path, "deep/er/a.Png", "deep/er/a.tif")
    source = opened()
    assert names(source) == [*"abcd", "deep/er/a", *"efgh"]
    assert source.warnings == ()
    for n in range(len(source)):
        np.testing.assert_array_equal(source[n]["label"], LABEL)


def test_a_suffix_is_compared_without_case_and_what_is_left_is_named(tmp_path, opened):
    for image in ("a.png", "b.PNG"):
        add(tmp_path, image, f"{image[0]}_mask.PNG")
    for image in ("c.jpg", "d.JPEG", "e.jpg", "f.heic.jpg"):
        add(tmp_path, image)
    (tmp_path / "img/val/notes.txt").touch()
    (tmp_path / "img/val/raw.CR2").touch()
    source = opened(image_suffix=".png", label_suffix="_Mask.png")
    assert names(source) == ["a", "b"]
    (warning,) = source.warnings
    assert "5 files are left out (1 .cr2, 1 .jpeg, 3 .jpg; names without '.png'" in warning
    assert warning.endswith(": c.jpg, d.JPEG, e.jpg ...")


def test_files_of_systems_and_hidden_ones_are_no_images(tmp_path, opened):
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


def test_archives_of_mac_and_upper_case_suffixes(tmp_path):
    wanted = ["images/a.JPG", "images/b.jpg"]
    junk = ["__MACOSX/images/._a.jpg", "images/._a.jpg", "images/.DS_Store"]
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        for name in (*wanted, *junk):
            archive.writestr(name, b"x")
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name in (*wanted, *junk):
            tar.addfile(tarfile.TarInfo(f"./two/{name}"))
    (tmp_path / "names.txt").write_bytes("é\n".encode("utf-16"))
    with Downloads(tmp_path) as downloads:
        found = [match["name"] for match in downloads.match(r"images/(?P<name>[^/]+)\.jpg")]
        assert sorted(found) == ["a", "a", "b", "b"]
        assert downloads.read_text("names.txt") == "é\n"


def test_a_root_below_a_hidden_folder_is_read(tmp_path, make_folder_config):
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


def test_a_link_to_nothing_is_named(tmp_path, opened):
    add(tmp_path, "a.png", "a.png")
    (tmp_path / "img/val/b.png").symlink_to(tmp_path / "gone.png")
    write(tmp_path / "ids/val/b.png", LABEL)
    with pytest.raises(DataError, match=r"1 of the 4 files .* missing: .*b\.png"):
        opened()


def test_labels_may_lie_in_the_image_folder(tmp_path, opened):
    for name in "ab":
        add(tmp_path, f"{name}.png")
        write(tmp_path / f"img/val/{name}_mask.png", LABEL)
    source = opened(labels="img/{split}", label_suffix="_mask.png")
    assert (names(source), source.warnings) == (["a", "b"], ())
    source = opened(labels="img/{split}", image_suffix=".png", label_suffix="_MASK.png")
    assert (names(source), source.warnings) == (["a", "b"], ())
    with pytest.raises(DataError, match=r"holds images and labels, .* give label_suffix"):
        opened(labels="img/{split}")


def test_labels_may_lie_below_the_image_folder(tmp_path, opened):
    for name in "ab":
        add(tmp_path, f"{name}.png")
        write(tmp_path / f"img/val/masks/{name}.png", LABEL)
    assert names(opened(labels="img/{split}/masks")) == ["a", "b"]
    assert names(opened(images="img/{split}/masks", labels="img/{split}")) == ["a", "b"]


def test_images_without_label_are_counted_and_named(tmp_path, opened):
    for n in range(7):
        add(tmp_path, f"{n}.jpg", f"{n}.png" if n < 2 else None)
    write(tmp_path / "ids/val/old.png", LABEL)
    message = r"5 of the 7 images .* have no label .*: 2\.jpg, 3\.jpg, 4\.jpg \.\.\. \(looked for 2"
    with pytest.raises(DataError, match=message) as raised:
        opened()
    assert "1 labels have no image: old.png" in str(raised.value)
    assert len(opened(eval_size=2)) == 2, "the first so many have labels"


def test_labels_that_are_no_images_are_named(tmp_path, opened):
    add(tmp_path, "a.jpg")
    (tmp_path / "ids/val").mkdir(parents=True)
    (tmp_path / "ids/val/a.json").touch()
    with pytest.raises(
        DataError, match=r"looked for a\.png .*; the label folder holds a\.json\. Label"
    ):
        opened()


def test_labels_without_image_are_counted_and_named(tmp_path, opened):
    add(tmp_path, "a.jpg", "a.png")
    for name in ("z", "b", "c", "d"):
        write(tmp_path / f"ids/val/{name}.png", LABEL)
    (warning,) = opened().warnings
    assert "ids/val: 4 labels have no image in " in warning
    assert warning.endswith("b.png, c.png, d.png ...")


def test_two_labels_of_one_image_are_refused(tmp_path, opened):
    add(tmp_path, "a.jpg", "a.png")
    write(tmp_path / "ids/val/a.bmp", LABEL)
    with pytest.raises(
        DataError, match=r"a\.jpg has several labels .*: a\.bmp, a\.png; .*label_suf"
    ):
        opened()
    assert len(opened(label_suffix=".png")) == 1


def test_images_that_differ_in_suffix_alone_keep_their_own_results(tmp_path, opened):
    for image in ("a.jpg", "a.png", "b.png"):
        add(tmp_path, image, f"{image[0]}.png")
    source = opened()
    assert names(source) == ["a_jpg", "a_png", "b"]
    assert source[0]["image"][0, 0, 0] != source[1]["image"][0, 0, 0]
    assert "2 images differ from another one in suffix alone" in source.warnings[0]
    write(tmp_path / "ids/val/a2.png", LABEL)
    (tmp_path / "val.txt").write_text(
        "img/val/a.jpg ids/val/a.png\nimg/val/a.png ids/val/a2.png\nimg/val/a.png ids/val/a.png\n"
    )
    listed = opened(list_file="{split}.txt")
    assert names(listed) == ["img/val/a_jpg", "img/val/a_png", "img/val/a_png_2"]


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


def test_a_name_that_is_not_utf8_is_read_and_shown(tmp_path, opened):
    odd = os.fsdecode(b"caf\xe9 \x80")
    add(tmp_path, f"{odd}.png", f"{odd}.png")
    source = opened()
    assert names(source) == ["café €"]
    assert source[0]["index"] == 0
    (tmp_path / "ids/val" / f"{odd}.png").unlink()
    with pytest.raises(DataError, match="1 of the 1 images"):
        opened()
    assert readable("日本") == "日本"


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
def test_lists_are_read_as_systems_write_them(tmp_path, opened, encoding, line):
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


def test_a_list_that_names_an_image_again(tmp_path, opened):
    for name in "abc":
        add(tmp_path, f"{name}.jpg", f"{name}.png")
    pairs = [f"img/val/{image}.jpg ids/val/{label}.png" for image, label in ("aa", "bb", "cc")]
    (tmp_path / "val.txt").write_text("\n".join(pairs))
    assert opened(list_file="{split}.txt").warnings == ()
    lines = [*pairs, pairs[0], "img/val/b.jpg ids/val/c.png"]
    (tmp_path / "val.txt").write_text("\n".join(lines))
    (warning,) = opened(list_file="{split}.txt").warnings
    assert "names 2 images more than once, 1 of them with different labels: " in warning
    assert warning.endswith(f"{tmp_path / 'img/val/a.jpg'}, {tmp_path / 'img/val/b.jpg'}")


def test_a_name_that_begins_as_a_comment_does(tmp_path, opened):
    write(tmp_path / "#1 a.png", LABEL)
    add(tmp_path, "a.jpg", "a.png")
    (tmp_path / "val.txt").write_text("# 1.png a.png\n#1 a.png ids/val/a.png\n")
    assert names(opened(list_file="{split}.txt")) == ["#1 a"]


def test_a_list_that_can_be_read_in_two_ways_is_refused(tmp_path, opened):
    for name in ("a", "a b", "b c", "c"):
        write(tmp_path / name, LABEL) if "." in name else (tmp_path / name).touch()
    (tmp_path / "val.txt").write_text("a b c")
    with pytest.raises(DataError, match=r"can be read as \('a', 'b c'\) and as .*by a tab"):
        opened(list_file="{split}.txt")
    (tmp_path / "val.txt").write_text("no such pair here")
    with pytest.raises(DataError, match=r"line 1: 'no such pair here' is not `image label`"):
        opened(list_file="{split}.txt")


@pytest.mark.parametrize(
    "name", ["../x.png", "..\\x.png", "/x.png", "C:\\x.png", "C:/x.png", "a/../x"]
)
def test_a_list_stays_in_its_folder(tmp_path, opened, name):
    (tmp_path / "val.txt").write_text(f"{name}\tlabel.png")
    with pytest.raises(DataError, match="lies outside the data set"):
        opened(list_file="{split}.txt")


def test_a_list_of_names_that_are_not_utf8(tmp_path, opened):
    odd = os.fsdecode(b"\xff\xe9")
    add(tmp_path, f"{odd}.jpg", f"{odd}.png")
    (tmp_path / "val.txt").write_bytes(b"img/val/\xff\xe9.jpg ids/val/\xff\xe9.png\n")
    assert names(opened(list_file="{split}.txt")) == ["img/val/ÿé"]
    with pytest.raises(DataError, match=r"val\.txt is no text .*: save it as UTF-8"):
        decode_text(b"\xff\xfea", "val.txt")


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read the folder .*gone: No such file"):
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
def test_without_suffix(path, suffix, stem):
    assert without_suffix(path, suffix) == stem
