"""Every code block of the documents is run, or listed here with the reason why it is not."""

import re
import shlex
import textwrap
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from configs import base, loading
from gsto_jax import create_model
from modes import command_line
from modes.registry import MODES
from tests.documents import PAGES, ROOT, anchors, blocks, commands, name
from tests.program import run

LANGUAGES = {"bash", "python", "diff", "text", "floors"}
DATASETS = "imagenet|cityscapes|camvid|lip|pascal|coco|lsp|mpii|wholebody|DIR|ROOT"
NOT_RUN = {
    r"^(pip|make|source|\.venv/bin/pre-commit)\b": "installs; CI runs it",
    r"^\.venv/bin/python -m pytest": "runs tests",
    r"^(docker|gcloud|git archive|export TPU|kubectl|sbatch|sky|srun|xpk|xprof)\b": (
        "needs a cloud or a cluster"
    ),
    r"^(JAX_PLATFORMS|TPU_PROCESS_BOUNDS)=": "needs a TPU slice",
    r"^(for|'?done)\b": "loops over commands that are listed",
    r"^tensorboard|^tail -f|^python examples/serve|^curl": "runs until it is stopped, or asks it",
    r"^python examples/saved_model": "tests/test_saved_model.py converts a network",
    r"^hf upload": "needs an account",
    r"^kill -USR1": "signals a run in progress; tests/gsto_jax/training has it",
    r"^python benchmarks": "measures for minutes, on data or machines that tests lack",
    r"^gsto-jax\b": ".ci/installation.py runs the command of an installation",
    r"--coordinator=": "tests/modes/test_several_hosts.py runs several processes",
    r"--mode=plan|--plan_json": "needs a compiler for TPUs; tests/gsto_jax/plan has it",
    r"--mode=init": "writes a config; tests/modes/test_init.py has it",
    r"--mode=(prepare|submit)": "needs a downloaded dataset",
    r"--config\.init_from=\S+\.pth": "needs a file; tests/modes/test_init_from.py has it",
    r"run\.trackers=.*wandb": "needs another package; tests/modes/test_trackers.py has it",
    r"--mode=explain .*--compare=": "needs two runs; tests/modes/test_explain.py has it",
    r"--formats=safetensors": "needs released gates; tests/modes/test_init_from.py has it",
    r"--calibration=": "needs a folder of images; tests/gsto_jax/predict has int8",
    r"--boxes=|coco_pose": "needs a pose network; tests/modes/test_pose_main.py has it",
    rf"^python main.py(?! --mode=describe)(?!.*mine\.py).*(/|=)({DATASETS})": "needs a dataset",
    r"ablation\.py:row=t2": "needs Cityscapes",
}
"""Commands that no test runs, as regular expressions, and why."""
LONG = (
    r"baseline|mini|--mode=sweep|--mode=tables|--mode=export.*--output=DIR|--checkpoint=DIR"
    r"|profile_start|--fork_from|--config\.init_from=|--save=|kind=adamw|^python examples"
)
"""Commands that run in a test marked long."""
PYTHON_NOT_RUN = {
    "docs/classification.md": "needs a network; tests/modes/test_classification_main.py has it",
    "docs/export.md": "needs exported programs; tests/gsto_jax/predict/test_export.py has it",
    "docs/pose.md": "needs a pose network; tests/gsto_jax/predict has it",
    "docs/predicting.md": "runs with the commands of its page",
    "docs/weights.md": "needs a file of weights; a test of its own runs it",
}
SLOW_PYTHON = {"docs/getting-started.md", "docs/models.md", "docs/porting.md"}
EXAMPLES = "\n".join(path.read_text() for path in (ROOT / "examples").glob("*.py"))


def reason(command):
    """Returns why a command is not run; None for one that is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


PROGRAMS = ("python main.py", "gsto-jax")
COMMANDS = [
    pytest.param(command, id=f"{block.page}:{block.line}-{number}")
    for block in blocks("bash")
    for number, command in enumerate(commands(block.text))
]
RUN = list(
    dict.fromkeys(
        re.sub("=RUN\\b", "=runs/demo", command).replace(" --config=configs/quickstart.py ", " ")
        for (command,) in (param.values for param in COMMANDS)
        if not reason(command)
    )
)
"""The commands that tests run, each once."""


def test_blocks_have_a_language():
    without = [block[:2] for block in blocks() if block.language not in LANGUAGES]
    assert not without


def test_reasons_are_used():
    listed = [param.values[0] for param in COMMANDS]
    for pattern in NOT_RUN:
        assert any(re.search(pattern, command) for command in listed), pattern


def test_commands_are_run_or_listed():
    programs = ("python main.py", "python examples/")
    assert not [command for command in RUN if not command.startswith(programs)]


# Commands


@pytest.mark.parametrize(
    "command", [param for param in COMMANDS if param.values[0].startswith(PROGRAMS)]
)
def test_flags_and_options_exist(command, own_config):
    text = re.sub(r"\$(word|variant)\b", "", re.sub(r"\$seed\b", "0", command))
    argv = command_line.with_mode_flag(shlex.split(text.removeprefix("python ")))
    words = [word for word in argv[1:] if word not in ("&", "...")]
    values = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    mode = values.get("mode", "train")
    assert mode in MODES
    for flag in values.keys() - {"mode", "config", "help", "help_config"}:
        assert flag.startswith("config.") or flag in MODES[mode].flags, flag
    assert mode == "predict" or all(word.startswith("--") for word in words)
    file = values.get("config", loading.DEFAULT)
    overrides = [word for word in words if word.startswith("--config.")]
    for path in filter(None, (file, values.get("compare") if mode == "plan" else None)):
        own = path.startswith("configs/mine.py")
        command_line.load_with_overrides(own_config if own else path, overrides)


@pytest.fixture(scope="module")
def own_config(tmp_path_factory):
    """The config of docs/your-data.md as a file."""
    (block,) = (block for block in blocks("python") if block.page == "docs/your-data.md")
    path = tmp_path_factory.mktemp("configs") / "mine.py"
    path.write_text(block.text)
    return str(path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, own_config):
    """A folder with the images, videos and datasets that the commands name."""
    folder = tmp_path_factory.mktemp("workspace")
    rng = np.random.default_rng(0)
    for path in ("photo.jpg", "scans/a.png", "holiday/b.jpg", "holiday/day2/c.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), rng.integers(256, size=(128, 256, 3), dtype=np.uint8))
    video = cv2.VideoWriter(
        str(folder / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (256, 128)
    )
    for _ in range(2):
        video.write(rng.integers(256, size=(128, 256, 3), dtype=np.uint8))
    video.release()
    for split, count in {"train": 8, "val": 2}.items():
        for n in range(count):
            for kind, shape, top in (("images", (128, 128, 3), 256), ("labels", (128, 128), 3)):
                path = folder / "DIR" / kind / split / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(top, size=shape, dtype=np.uint8))
    return folder


def execute(command, folder, own_config):
    """Runs a command in a folder; trainings take four steps of small crops."""
    words = shlex.split(command)
    if words[1] != "main.py":
        pytest.fail(f"{command}: neither run nor listed")
    words = [word.replace("configs/mine.py", own_config) for word in words[2:]]
    words = [re.sub(r"train\.steps=\d+", "train.steps=6", word) for word in words]
    if not any(re.match("--mode|--help", word) for word in words):
        file = next((word for word in words if word.startswith("--config=")), "")
        words = [word for word in words if word != file]
        file = file or f"--config={loading.DEFAULT}"
        words.append(f"{file}{',' if ':' in file else ':'}runlocal")
        if own_config in file:
            words.append("--config.model.variant=resnet_mini")
    elif "--mode=sweep" in words:
        words += ["--config.train.steps=2", "--config.data.train_size=8", "--seeds=2"]
    result = run(*words, cwd=folder)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.mark.slow
def test_quick_commands_and_the_predictor(workspace, own_config, monkeypatch):
    quick = [command for command in RUN if not re.search(LONG, command)]
    assert len(quick) > 9
    for command in quick:
        execute(command, workspace, own_config)
    assert (workspace / "runs/demo/report.html").exists()
    assert list((workspace / "predictions").glob("**/drive*"))
    (block,) = (block for block in blocks("python") if block.page == "docs/predicting.md")
    monkeypatch.chdir(workspace)
    names = {}
    exec(block.text, names)
    assert names["labels"].shape == (128, 256)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("command", [command for command in RUN if re.search(LONG, command)])
def test_long_commands(command, workspace, own_config):
    if "examples/" in command:
        pytest.skip("tests/test_examples.py and tests/test_context_docs.py run the examples")
    if not (workspace / "runs/demo").exists():
        execute("python main.py --workdir=runs/demo", workspace, own_config)
    execute(command, workspace, own_config)


# Python


def python_blocks():
    """Returns the blocks of Python that run by themselves."""
    for block in blocks("python"):
        if block.page not in PYTHON_NOT_RUN and not block.text.startswith(" "):
            marks = [pytest.mark.slow] if block.page in SLOW_PYTHON else []
            yield pytest.param(block.text, id=f"{block.page}:{block.line}", marks=marks)


@pytest.mark.parametrize("code", list(python_blocks()))
def test_python_runs(code):
    exec(code, {"__name__": "document"})


def test_the_decoder_gates_what_it_upsamples():
    """The README's module adds one gate, and the sizes fit."""
    (block,) = (block for block in blocks("python") if block.page == "README.md")
    names = {}
    exec(block.text, names)
    deep, skip = np.ones((1, 4, 4, 32), np.float32), np.ones((1, 8, 8, 64), np.float32)
    y, variables = jax.eval_shape(
        names["Decoder"]().init_with_output, jax.random.key(0), deep, skip
    )
    assert y.shape == (1, 8, 8, 64)
    assert len(jax.tree.leaves(variables["params"])) == 2 + 3  # convolution; gate with its BN


def test_fragments_stand_in_the_examples():
    fragments = [block for block in blocks("python") if block.text.startswith(" ")]
    for block in fragments:
        dedented = textwrap.dedent(block.text) in textwrap.dedent(EXAMPLES)
        assert dedented or block.text in EXAMPLES, block[:2]


@pytest.mark.slow
def test_weights_round_trip(tmp_path, monkeypatch):
    page = [block.text for block in blocks("python") if block.page == "docs/weights.md"]
    (code,) = (text for text in page if "imported = " in text)
    monkeypatch.chdir(tmp_path)
    setup, use = code.split("imported = ")
    names = {"jit": jax.jit}
    exec(setup, names)
    _, variables = create_model("gsto_hrnet_w18_small_v2", num_classes=19, seed=3)
    names["export_weights"]("weights.pth", variables, names["GSTO_FORMAT"])
    exec("imported = " + use.replace("model.apply(", "jit(model.apply)("), names)
    assert (tmp_path / "back.safetensors").stat().st_size > 10**7


# Names in the text


NOT_OPTIONS = ("apply", "init", "jax", "json", "onnx", "py", "md", "safetensors")
"""Ends of names that look like config options."""


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_names_in_the_text_exist(path):
    text = path.read_text()
    known = loading.names(base.get_config())
    sections = {option.rpartition(".")[0] for option in known}
    first = "|".join(sorted({section.partition(".")[0] for section in sections} - {""}))
    for option in re.findall(rf"[`.]((?:{first})\.[a-z_.]+[a-z_])[`= ]", text):
        if Path(option).suffix[1:] in NOT_OPTIONS:
            continue
        assert option in known or option in sections, option
    folders = "gsto_jax|data_pipelines|configs|modes|tests|benchmarks|examples"
    for file in re.findall(rf"`((?:{folders})/[\w./-]+)", text):
        if not file.endswith("mine.py") and "FOLDER" not in file:
            assert (ROOT / file).exists() or list(ROOT.glob(f"{file}*")), file


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_links_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(((?!\w+:)[^)#\s]*)#?([^)\s]*)\)", path.read_text()):
        file = path.parent / target if target else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
