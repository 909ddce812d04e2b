"""Messages of the modes about labels before compilation, in this process."""

import ast
import os
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from configs import base
from configs.loading import plain_values
from data_pipelines import DataConfig, DataError
from gsto_jax.image_files import DecodeOptions, decode
from modes import audit, train


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.asarray(array, np.uint8))[1].tobytes())


@pytest.fixture
def arguments(tmp_path):
    """Writes labels `label(n)` and images of both splits; returns the command line."""

    def build(label, count=5, suffix=".png", **changes):
        for split in ("train", "val"):
            for n in range(count):
                write(tmp_path / f"data/img/{split}/{n}.jpg", np.mgrid[:32, :48, :3][1] * 5)
                write(tmp_path / f"data/ids/{split}/{n}{suffix}", label(n))
        config = base.get_config()
        config.train.batch_size, config.train.steps = 4, 1
        config.data.root = str(tmp_path / "data")
        config.data.images, config.data.labels = "img/{split}", "ids/{split}"
        config.data.classes = ("background", "road")
        config.data.crop = (32, 32)
        for name, value in changes.items():
            with config.data.unlocked():
                config.data[name] = value
        flags = {"workdir": str(tmp_path / "run"), "plan_json": None, "channel_statistics": False}
        return SimpleNamespace(config=config, **flags)

    return build


def halves(*ids):
    return lambda n: np.repeat(np.resize(ids, 48)[None], 32, axis=0)


def test_masks_of_0_and_255_end_before_step_1(arguments, tmp_path, capsys):
    args = arguments(halves(0, 255))
    with pytest.raises(DataError, match=r"id_map=\(\(0, 0\), \(255, 1"):
        train.run(args)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="problems"):
        audit.run(args)
    out = capsys.readouterr().out
    assert "train: 5 labels, 1 problem\n" in out
    assert re.search(r"problem: .*5 labels of train ", out)
    assert re.search(r"warning: .*5 labels of val ", out)


def test_the_audit_names_each_kind_once(arguments, capsys):
    args = arguments(lambda n: halves(0, 1, n + 40)(n), count=30)
    odd = os.fsdecode(b"caf\xe9")
    root = args.config.data.root
    with open(f"{root}/ids/val/{odd}.png", "wb") as file:
        file.write(b"")
    with pytest.raises(DataError):
        audit.run(args)
    out = capsys.readouterr().out
    (line,) = [
        line for line in out.splitlines() if line.startswith("problem") and "/train/" in line
    ]
    assert "30 records " in line and "(33.3% " in line
    assert "train/0.png (40 (512 px)), " in line
    assert re.search(r"train: 30 labels, 30 problems\n", out)
    assert re.search(r"22 other unknown values +│ +11264 │", out)
    assert "1 label has no image" in out


def test_the_audit_of_jpeg_labels_is_one_line(arguments, capsys):
    circle = cv2.circle(np.zeros((32, 48), np.uint8), (20, 15), 10, 255, -1)
    args = arguments(lambda n: circle, suffix=".jpg", id_map=((0, 0), (255, 1)))
    with pytest.raises(DataError):
        audit.run(args)
    out = capsys.readouterr().out
    assert len(re.findall(r"5 records .*JPEG, .*\(\d+\.\d% ", out)) == 2, "once a split"


def test_clean_labels_pass_without_a_warning(arguments, capsys):
    audit.run(arguments(halves(0, 1, 255)))
    out = capsys.readouterr().out
    assert out.count("5 labels, 0 problems") == 2
    assert not re.search("warning|note|problem:", out)


def test_the_audit_weights_classes_by_their_pixels_in_train(arguments, capsys):
    """A third of the labeled pixels of train is road, and a fourth of all pixels is ignored."""
    args = arguments(lambda n: np.repeat(np.repeat([0, 0, 1, 255], 12)[None], 32, axis=0))
    audit.run(args)
    (values,) = re.findall(r"'--config\.data\.class_weights=\((.*)\)'", capsys.readouterr().out)
    weights = np.array([float(value) for value in values.split(",")])
    raw = 1 / np.log(1.02 + np.array([2 / 3, 1 / 3]))
    np.testing.assert_allclose(weights, raw / (2 * raw[0] + raw[1]) * 3, atol=5e-4)


def test_a_class_that_does_not_occur_is_named(arguments, capsys):
    audit.run(arguments(halves(0, 1), classes=("background", "road", "car")))
    assert re.search("note: train: .*'car'", capsys.readouterr().out)


def test_settings_hold_the_default_palette(arguments):
    config = arguments(halves(0, 1), count=1).config
    assert plain_values(config)["data"]["palette"] == [[0, 0, 0], [128, 0, 0]]
    config.data.palette = ((1, 2, 3), (4, 5, 6))
    assert plain_values(config)["data"]["palette"] == [[1, 2, 3], [4, 5, 6]]


def test_colors_without_a_palette_are_an_error(arguments):
    with pytest.raises(DataError, match=r"config\.data\.palette must be"):
        audit.run(arguments(halves(0, 1), label_encoding="colors"))


def test_a_class_that_only_val_contains_is_named(arguments, tmp_path, capsys):
    args = arguments(halves(0, 1), classes=("background", "road", "car"))
    write(tmp_path / "data/ids/val/0.png", halves(2)(0))
    audit.run(args)
    assert re.search("warning: val .*'car' .*but train ", capsys.readouterr().out)


def test_the_audit_of_colors(arguments, capsys):
    colors = np.array([[0, 0, 0], [60, 50, 40], [10, 10, 10]], np.uint8)  # BGR
    options = {"label_encoding": "colors", "palette": ((0, 0, 0), (40, 50, 60))}
    args = arguments(lambda n: colors[halves(0, 1, 2)(n)], **options)
    with pytest.raises(DataError):
        audit.run(args)
    out = capsys.readouterr().out
    assert re.search(r"unknown color \(10, 10, 10\) +│ +2560 │", out)
    assert re.search(r"problem: 5 records .*\(10, 10, 10\) \(512 px, nearest 'background'", out)
    args.config.data.color_tolerance = 20.0
    audit.run(args)
    out = capsys.readouterr().out
    assert re.search(r"note: val: 33\.33% ", out)
    assert re.search(r"background +│ +5120 │ +66\.67%", out)


def test_channel_statistics_are_lines_of_a_config(arguments, tmp_path, capsys):
    """The default mean, of RGB, does not stop the audit of gray images."""
    args = arguments(halves(0, 1), channels=1)
    images = sorted((tmp_path / "data/img/train").iterdir())
    for n, path in enumerate(images):
        write(path, np.random.default_rng(n).integers(0, 256, (32, 48)))
        write(tmp_path / f"data/img/val/{n}.jpg", np.zeros((32, 48)) + 9)
    with pytest.raises(DataError, match=r"config\.data\.mean must be one value .* data.channels=1"):
        audit.run(args)
    args.channel_statistics = True
    audit.run(args)
    lines = capsys.readouterr().out.splitlines()
    values = {
        name: ast.literal_eval(line.partition("=")[2].strip())
        for line in lines
        for name in ("mean", "std")
        if line.startswith(f"config.data.{name} =")
    }
    options = DecodeOptions(channels=1)
    pixels = np.stack([decode(path.read_bytes(), options).pixels for path in images]) / 255
    np.testing.assert_allclose(values["mean"], [pixels.mean()], atol=1e-6)
    np.testing.assert_allclose(values["std"], [pixels.std()], atol=1e-6)
    DataConfig(**plain_values(args.config)["data"] | values)


def test_channel_statistics_name_constant_channels(arguments, tmp_path, capsys):
    args = arguments(halves(0, 1))
    for path in (tmp_path / "data/img").glob("*/*.jpg"):
        write(path, np.full((32, 48, 3), 51))
    args.channel_statistics = True
    audit.run(args)
    out = capsys.readouterr().out
    assert "config.data.mean = (0.2, 0.2, 0.2)" in out
    assert "config.data.std = (1.0, 1.0, 1.0)" in out
    assert "warning: the same value in all pixels of channel 1, 2, 3" in out


def test_images_of_another_number_of_channels_are_problems(arguments, capsys):
    args = arguments(halves(0, 1), channels=5, mean=(0.5,) * 5, std=(0.5,) * 5)
    with pytest.raises(DataError):
        audit.run(args)
    assert re.search(
        r"problem: .*train/0\.jpg.* must have 5 channels; got 3", capsys.readouterr().out
    )
    with pytest.raises(DataError, match=r"\.jpg.* must have 5 channels; got 3"):
        train.run(args)


def test_the_audit_of_classes_counts_images(tmp_path, capsys):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            write(tmp_path / split / name / "0.jpg", np.full((8, 8, 3), 99))
    config = base.get_config()
    config.task, config.data.source = "classification", "class_folders"
    config.data.root = str(tmp_path)
    config.data.classes = ("cat", "dog")
    config.data.crop = (8, 8)
    audit.run(SimpleNamespace(config=config, channel_statistics=False))
    text = capsys.readouterr().out
    assert "train: 2 images, 0 problems" in text
    assert "ignored" not in text and "label" not in text and "pixel" not in text
