"""Image folders: both layouts, all kinds of label PNGs, errors."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from data_pipelines import CAMVID, CITYSCAPES, DataConfig, DataError, EvalBatches, FolderSource
from tests.data_pipelines.prepared_sets import real


def test_walks_folders(tree, make_folder_config):
    source = FolderSource(make_folder_config(tree), "val")
    assert len(source) == 3
    assert [source.name(i) for i in range(3)] == ["x/one", "x/two", "y/three"]
    item = source[2]
    bgr = cv2.imread(str(tree / "images/val/y/three_img.png"))
    np.testing.assert_array_equal(item["image"], bgr[..., ::-1])
    np.testing.assert_array_equal(
        item["label"], cv2.imread(str(tree / "labels/val/y/three_ids.png"), cv2.IMREAD_UNCHANGED)
    )
    assert item["image"].dtype == item["label"].dtype == np.uint8
    assert item["index"] == 2
    with pytest.raises(IndexError):
        source[3]


def test_reads_list_file(tree, make_folder_config):
    (tree / "val.txt").write_text(
        "images/val/y/three_img.png labels/val/y/three_ids.png\n\n"
        "images/val/x/one_img.png\tlabels/val/x/one_ids.png\n"
    )
    listed = FolderSource(make_folder_config(tree, list_file="{split}.txt"), "val")
    walked = FolderSource(make_folder_config(tree), "val")
    assert [listed.name(i) for i in range(2)] == ["images/val/y/three_img", "images/val/x/one_img"]
    np.testing.assert_array_equal(listed[0]["image"], walked[2]["image"])
    np.testing.assert_array_equal(listed[1]["label"], walked[0]["label"])


@pytest.mark.parametrize(("depth", "palette"), [(8, True), (4, True), (2, True), (1, True)])
@pytest.mark.parametrize("gray", [False, True])
def test_palette_and_shallow_pngs_give_indices(
    tree, make_folder_config, make_png, depth, palette, gray
):
    label = np.random.default_rng(1).integers(0, min(3, 2**depth), (4, 6))
    make_png(tree / "labels/val/x/one_ids.png", label, depth, palette and not gray)
    source = FolderSource(make_folder_config(tree), "val")
    np.testing.assert_array_equal(source[0]["label"], label)


def test_sixteen_bit_label_is_mapped(tree, make_folder_config, make_png):
    raw = np.array([[300, 40000], [300, 7]]).repeat(2, 0).repeat(3, 1)
    make_png(tree / "labels/val/x/one_ids.png", raw, 16)
    config = make_folder_config(tree, id_map=((300, 2), (40000, 255), (7, 0), (-1, 255)))
    label = FolderSource(config, "val")[0]["label"]
    expected = np.array([[2, 255], [2, 0]]).repeat(2, 0).repeat(3, 1)
    np.testing.assert_array_equal(label, expected)
    assert label.dtype == np.uint8


def test_ignored_ids_become_the_ignore_label(tree, make_folder_config, make_png):
    make_png(tree / "labels/val/x/one_ids.png", np.full((4, 6), 9))
    config = make_folder_config(tree, id_map=((9, 255),), ignore_label=200)
    assert (FolderSource(config, "val")[0]["label"] == 200).all()


def test_gray_image_becomes_rgb(tree, make_folder_config, make_image):
    gray = np.random.default_rng(2).integers(0, 256, (4, 6), np.uint8)
    make_image(tree / "images/val/x/one_img.png", gray)
    image = FolderSource(make_folder_config(tree), "val")[0]["image"]
    np.testing.assert_array_equal(image, np.repeat(gray[..., None], 3, axis=2))


def test_missing_root(tmp_path, make_folder_config):
    with pytest.raises(DataError, match=r"nowhere. .*root"):
        FolderSource(make_folder_config(tmp_path / "nowhere"), "val")


def test_missing_folder_and_list(tree, make_folder_config):
    with pytest.raises(DataError, match=r"/images/test. .*root, images"):
        FolderSource(make_folder_config(tree), "test")
    with pytest.raises(DataError, match=r"/nothing. .*root, labels"):
        FolderSource(make_folder_config(tree, labels="nothing"), "val")
    with pytest.raises(DataError, match=r"/val\.txt. .*root, list_file"):
        FolderSource(make_folder_config(tree, list_file="{split}.txt"), "val")


def test_empty_split(tree, make_folder_config):
    (tree / "images/none").mkdir()
    (tree / "labels/none").mkdir()
    with pytest.raises(DataError, match=r"images/none .*'_img\.png'"):
        FolderSource(make_folder_config(tree), "none")
    with pytest.raises(DataError, match=r"'\.jpg' .*x/one_img\.png"):
        FolderSource(make_folder_config(tree, image_suffix=".jpg"), "val")
    (tree / "none.txt").write_text("\n")
    with pytest.raises(DataError, match=r"none\.txt is empty"):
        FolderSource(make_folder_config(tree, list_file="{split}.txt"), "none")


def test_bad_list_line(tree, make_folder_config):
    (tree / "val.txt").write_text("images/val/x/one_img.png\n")
    with pytest.raises(DataError, match=r"val\.txt, line 1: .*images/val/x/one_img\.png"):
        FolderSource(make_folder_config(tree, list_file="{split}.txt"), "val")


def test_missing_files(tree, make_folder_config):
    (tree / "labels/val/x/one_ids.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 .*x/one_img\.png .*x/one_ids\.png"):
        FolderSource(make_folder_config(tree), "val")
    (tree / "val.txt").write_text("".join(f"a{i}.png b{i}.png\n" for i in range(4)))
    with pytest.raises(DataError, match=r"8 of the 8 .*a0\.png, .*b0\.png, .*a1\.png \.\.\."):
        FolderSource(make_folder_config(tree, list_file="{split}.txt"), "val")


def test_unknown_label_ids(tree, make_folder_config, make_png):
    raw = np.zeros((4, 6), int)
    raw[0, :2], raw[1, 0] = 3, 9
    make_png(tree / "labels/val/x/one_ids.png", raw)
    source = FolderSource(make_folder_config(tree), "val")
    message = r"x/one_ids\.png .*3 \(2 px\), 9 \(1 px\).*id_map .*0\.\.2, or 255"
    with pytest.raises(DataError, match=message):
        source[0]
    assert source[1]["index"] == 1


def test_size_mismatch(tree, make_folder_config, make_png):
    make_png(tree / "labels/val/x/one_ids.png", np.zeros((4, 5), int))
    with pytest.raises(DataError, match=r"one_img\.png is 6x4 .*one_ids\.png is 5x4"):
        FolderSource(make_folder_config(tree), "val")[0]


@pytest.mark.parametrize("name", ["images/val/x/one_img.png", "labels/val/x/one_ids.png"])
@pytest.mark.parametrize("kept", [0, 20, 60])
def test_truncated_file(tree, make_folder_config, name, kept):
    path = tree / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=rf"decode .*{name}: .*truncated"):
        FolderSource(make_folder_config(tree), "val")[0]


def test_truncated_palette_png(tree, make_folder_config, make_png):
    path = tree / "labels/val/x/one_ids.png"
    make_png(path, np.zeros((4, 6), int), 8, True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"decode .*one_ids\.png"):
        FolderSource(make_folder_config(tree), "val")[0]


def test_truncated_jpeg(tree, make_folder_config):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    (tree / "images/val/x/one_img.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"decode .*one_img\.png"):
        FolderSource(make_folder_config(tree), "val")[0]


def test_real_camvid():
    config = DataConfig(
        source="folder",
        root=str(real("camvid")),
        list_file="{split}.txt",
        classes=CAMVID.names,
        palette=CAMVID.palette,
        id_map=CAMVID.id_map,
        crop=(240, 320),
    )
    assert len(FolderSource(config, "train")) == 367
    source = FolderSource(config, "val")
    assert len(source) == 101
    item = source[0]
    assert item["image"].shape == (360, 480, 3)
    assert set(np.unique(item["label"])) <= {*range(11), 255}
    # A street: sky above, road below.
    assert np.bincount(item["label"][-20:].ravel()).argmax() == CAMVID.names.index("road")
    batches = list(EvalBatches(config, source, 40))
    assert [batch["mask"].sum() for batch in batches] == [40, 40, 21]


def test_real_cityscapes_layout():
    config = DataConfig(
        source="folder",
        root=str(real("cityscapes_layout_camvid")),
        images="leftImg8bit/{split}",
        labels="gtFine/{split}",
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelIds.png",
        classes=CITYSCAPES.names,
        palette=CITYSCAPES.palette,
        id_map=CITYSCAPES.id_map,
        crop=(240, 320),
    )
    source = FolderSource(config, "val")
    assert len(source) > 0
    train_ids = replace(config, label_suffix="_gtFine_labelTrainIds.png", id_map=())
    stored = FolderSource(train_ids, "val")
    for i in range(len(source)):
        np.testing.assert_array_equal(source[i]["label"], stored[i]["label"])
