"""Config files: how they are found, and messages about mistakes in them."""

import json
import re
from pathlib import Path

import pytest

from configs import base, loading
from configs.loading import ConfigError, load, load_from_run, plain_values
from gsto_jax.errors import UserError
from modes import command_line, config_page, help_pages
from modes.registry import MODES

START = "from configs import base\n\ndef get_config(arg=None):\n    config = base.get_config()\n"
END = "    return config\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{START}    config.train.stepz = 3\n{END}",
            "line 5: .*config.train.stepz.*config.train.steps[?]",
        ),
        (
            f"{START}    optim = config.optim\n    optim.momntum = 3.0\n{END}",
            "line 6: .*config.optim.momntum.*config.optim.momentum[?]",
        ),
        (
            f"{START}    config.data.keypoints.sigma = ()\n{END}",
            "line 5: .*config.data.keypoints.sigma:.*config.data.keypoints.sigmas[?]",
        ),
        (
            f"{START}    if config.trian.steps:\n        pass\n{END}",
            "line 5: .*config.trian:.*config.train[?]",
        ),
        (
            f"{START}    config.eval.update(scale=(1.0,))\n{END}",
            "line 5: .*config.eval.scale:.*config.eval.scales[?]",
        ),
        (
            f"{START}    config['sede'] = 4\n{END}",
            "line 5: .*config.sede:.*config.seed[?]",
        ),
        (
            f"{START}    config.unlock()\n    config.model.varient = True\n{END}",
            "config.model.varient.*config.model.variant[?]",
        ),
        (
            f"{START}    config.model = None\n{END}",
            "config.model must be a section",
        ),
        (
            f"{START}    config.train.steps = 'many'\n{END}",
            "line 5: config.train.steps must be an integer; got 'many'",
        ),
        (
            f"{START}    config.data.crop = 512\n{END}",
            "line 5: config.data.crop must be a tuple; got 512",
        ),
        (
            f"{START}    config.model = 'w48'\n{END}",
            "line 5: config.model must be a section, .*; got 'w48'",
        ),
        (f"{START}    if config.seed = 3:\n{END}", "line 5: cannot assign"),
        (f"{START}    config.seed = steps\n{END}", "line 5: .*'steps'"),
        (f"{START}    config.seed = {{}}['a']\n{END}", "line 5: KeyError: 'a'"),
        ("import nonsense_module\n", "line 1: .*'nonsense_module'"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("steps = 4\n", r"function get_config\("),
        (START, "returns nothing"),
        ("def get_config(arg=None):\n    return {}\n", "returns a dict"),
        (
            f"{START}    config.unlock()\n    del config.seed\n{END}",
            "config.seed is missing",
        ),
        ("def get_config(arg):\n    return arg\n", "colon"),
        ("\x00", "SyntaxError: .*null bytes"),
    ],
)
def test_mistakes_name_file_line_and_setting(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    assert re.fullmatch(f".*{path}.*{message}.*", str(caught.value))


def test_rejected_arguments(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(START.replace("arg=None", "") + END)
    load(str(path))
    with pytest.raises(ConfigError, match="colon"):
        load(f"{path}:baseline")
    with pytest.raises(ConfigError, match=r"baseline.* ':basline'"):
        load("configs/quickstart.py:basline")


def test_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("configs/quickstart.py:runlocal").name == "quickstart-runlocal"
    (tmp_path / "configs").mkdir()
    text = START + "    config.name = 'ours'\n" + END
    (tmp_path / "configs" / "quickstart.py").write_text(text)
    assert load("configs/quickstart.py").name == "ours", "the working directory comes first"


@pytest.mark.parametrize("value", [b"x", {1}, 1j, ...])
def test_values_that_json_cannot_store(value):
    config = load("configs/quickstart.py")
    config.eval.pad_to = value  # "auto" or a number, so of no one type
    with pytest.raises(UserError, match=r"config\.eval\.pad_to must be"):
        plain_values(config)


@pytest.mark.parametrize("place", ["", "best", "checkpoints/20"])
def test_a_run_has_its_settings(tmp_path, place):
    config = load("configs/camvid_w18s.py:baseline,runlocal")
    (tmp_path / "config.json").write_text(config.to_json())
    assert load_from_run(tmp_path / place) == config
    values = json.loads(config.to_json()) | {"color": 3}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="it has the option color"):
        load_from_run(tmp_path / place)
    del values["color"], values["optim"]["momentum"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"it lacks the option optim\.momentum"):
        load_from_run(tmp_path / place)


def test_a_checkpoint_alone_has_its_settings(tmp_path):
    config = load("configs/camvid_w18s.py")
    (tmp_path / "20" / "run").mkdir(parents=True)
    record = {"config": json.loads(config.to_json()), "data": None}
    (tmp_path / "20" / "run" / "metadata").write_text(json.dumps(record))
    assert load_from_run(tmp_path / "20") == config
    assert load_from_run(tmp_path) is None


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], "quickstart"),
        (["--workdir={run}"], "camvid_w18s"),
        (["--mode=eval", "--workdir={run}"], "camvid_w18s"),
        (["--mode", "submit", "--checkpoint", "{run}/best"], "camvid_w18s"),
        (["--mode=eval", "--workdir={run}", "--config=configs/lip_w48.py"], "lip_w48"),
        (["--mode=eval", "--workdir={run}", "--config", "configs/lip_w48.py"], "lip_w48"),
        (["--mode=describe", "--workdir={run}"], "quickstart"),
        (["--workdir={run}/new"], "quickstart"),
    ],
)
def test_which_settings_a_command_line_means(tmp_path, argv, name):
    (tmp_path / "config.json").write_text(load("configs/camvid_w18s.py").to_json())
    argv = ["main.py", *(arg.format(run=tmp_path) for arg in argv)]
    assert command_line._load_config(argv).name == name


def test_a_command_line_without_config():
    argv = ["main.py", "--config", "x.py", "--seeds=3", "-config=y.py", "--config.seed=4", "a.png"]
    argv += ["--", "--config=z.py"]
    rest = ["main.py", "--seeds=3", "--config.seed=4", "a.png", "--", "--config=z.py"]
    assert command_line._without_config(argv) == rest


def page_of(*args):
    return help_pages.requested_page(["main.py", *args])


def test_help_pages_fit_a_terminal_and_name_everything():
    pages = {mode: page_of(f"--mode={mode}", "--help") for mode in MODES}
    main = page_of("-h")
    for text in (main, *pages.values(), page_of("--help_config=")):
        assert max(map(len, text.splitlines())) <= 100
    assert all(f"\n  {mode} " in main for mode in MODES)
    assert sum(line.startswith("  --") for line in main.splitlines()) == 11
    assert main.count("  python main.py --") == 3 + 2, "three examples, and where more is"
    for mode, text in pages.items():
        assert MODES[mode].example in text and MODES[mode].summary in text.replace("\n", " ")
        listed = {line.split()[0] for line in text.splitlines() if line.startswith("  --")}
        assert {f"--{name}" for name in MODES[mode].flags} <= listed
    assert page_of("--mode=train") is None


def test_every_option_is_listed_with_its_meaning():
    assert set(base.options()) == set(loading.names(base.get_config()))
    page = page_of("--help_config=Optim")
    assert "optim.learning_rate = 0.01\n      Base learning rate" in page
    by_name, _, mentioned = page.partition("others whose meaning mentions")
    assert "shard_parameters" in mentioned and "shard_parameters" not in by_name
    page = page_of("--help_config=crop", "--config=configs/camvid_w18s.py")
    crop = load("configs/camvid_w18s.py").data.crop
    assert "values of configs/camvid_w18s.py" in page and f"data.crop = {crop}" in page


def test_the_reference_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "config.md"
    command = "python -m modes.config_page > docs/config.md"
    assert page.read_text() == config_page.page(), f"run {command}"


@pytest.mark.filterwarnings("ignore:the load_module")  # how ml_collections loads a file
def test_another_configuration_gets_the_same_flags(monkeypatch):
    argv = ["main.py", "--config=x.py", "--config.seed=7", "--mode=plan", "--config.train.steps=9"]
    monkeypatch.setattr("sys.argv", argv)
    config = command_line.load_with_overrides("configs/quickstart.py:baseline,batch=8")
    assert (config.name, config.seed, config.train.steps) == ("quickstart-baseline-batch8", 7, 9)
    with pytest.raises(Exception, match="config argument must be") as error:
        command_line.load_with_overrides("configs/quickstart.py:nope")
    assert command_line.last_line(error.value).endswith("got ':nope'")
    with pytest.raises(Exception, match=r"configs/nope\.py") as error:
        command_line.load_with_overrides("configs/nope.py")
    assert "configs/nope.py" in command_line.last_line(error.value)
