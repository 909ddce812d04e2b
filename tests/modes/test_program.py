"""The command of an installation, `gsto-jax`: modes and configs by name."""

import re
import sys
from pathlib import Path

import pytest

import gsto_jax
from configs import loading
from modes import command_line, help_pages
from modes.program import command, install_command
from modes.registry import MODES


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gsto-jax", "--workdir=x"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("train --config=x", "--mode=train --config=x"),
        ("predict --checkpoint=x train", "--mode=predict --checkpoint=x train"),
        ("evak", "--mode=evak"),
        ("--workdir=x eval", "--workdir=x eval"),
        ("train --mode=predict", "train --mode=predict"),
        ("eval --mode predict", "eval --mode predict"),
        ("photo.jpg", "photo.jpg"),
        ("seed=3", "seed=3"),
        ("", ""),
    ],
)
def test_a_first_word_is_the_mode(arguments, expected):
    argv = command_line.with_mode_flag(["gsto-jax", *arguments.split()])
    assert argv == ["gsto-jax", *expected.split()]


@pytest.mark.parametrize(
    ("name", "similar"), [("trian", "train"), ("evaluate", "eval"), ("EXPORT", ""), ("x", "")]
)
def test_unknown_modes(name, similar, capsys):
    for argument in (f"--mode={name}", "--mode=" + name):
        with pytest.raises(SystemExit) as end:
            command_line.parse(["gsto-jax", argument])
        assert end.value.code == 2
        message = capsys.readouterr().err
        assert all(mode in message for mode in MODES)
        assert message.endswith(f"did you mean {similar}?\n") == bool(similar)


def test_messages_name_the_command_of_the_user(monkeypatch, installed):
    assert command("train", "--config=x") == "gsto-jax train --config=x"
    assert command("tables", "") == "gsto-jax tables"
    assert "gsto-jax[train]" in install_command()
    pages = [help_pages.requested_page(["gsto-jax"])]
    assert not any("--mode" in mode.example for mode in MODES.values())
    pages += [help_pages.mode_page(mode) for mode in MODES]
    assert all(f"\n  {mode} " in pages[0] for mode in MODES)
    assert all("usage: gsto-jax " in page and "main.py" not in page for page in pages)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    assert command("train", "--config=x") == "python main.py --config=x"
    assert command("eval", "--workdir=x") == "python main.py --mode=eval --workdir=x"
    assert help_pages.requested_page(["main.py"]) is None, "it trains"


def test_the_version():
    page = help_pages.requested_page(["gsto-jax", "--version"])
    assert page == f"gsto-jax {gsto_jax.__version__}\n"
    for file in ("pyproject.toml", "CITATION.cff"):
        text = (loading.ROOT / file).read_text()
        (version,) = re.findall(r'^version[ =:"]+([\d.]+)', text, re.MULTILINE)
        assert version == gsto_jax.__version__, file


def test_configs_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    names = loading.packaged_configs()
    assert {"quickstart", "cityscapes_w48", "coco_pose_w32"} <= names.keys()
    assert not {"base", "loading", "writing"} & names.keys()
    for name in ("quickstart", "cityscapes_w48"):
        by_file = loading.load(f"configs/{name}.py:baseline")
        assert loading.load(f"{name}:baseline") == by_file


def test_an_own_config_builds_on_a_packaged_one(tmp_path, monkeypatch):
    """It may have the name of a packaged one, and lie in a folder called configs."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/cityscapes_w48.py").write_text(
        "from configs import cityscapes_w48\n\n\n"
        "def get_config(arg=None):\n"
        "    config = cityscapes_w48.get_config(arg)\n"
        "    config.train.steps = 7\n"
        "    return config\n"
    )
    config = loading.load("configs/cityscapes_w48.py:ms")
    packaged = loading.load("cityscapes_w48:ms")
    assert config.train.steps == 7 and packaged.train.steps != 7
    assert config.data == packaged.data and config.eval == packaged.eval
