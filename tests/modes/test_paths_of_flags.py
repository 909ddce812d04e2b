"""Every flag and option that names files refuses unknown schemes, before anything else runs."""

import importlib.util
from types import SimpleNamespace

import pytest

from configs import loading
from data_pipelines import DataConfig, DataError
from gsto_jax.config import Config
from gsto_jax.config.fields import iter_options
from gsto_jax.errors import UserError
from modes import command_line, dispatch, run_setup
from modes.registry import MODES

PATH_FLAGS = [
    (mode, name) for mode, entry in MODES.items() for name in entry.flags if entry.flags[name].path
]
DATA = {"source": "folder", "root": "data", "images": "{split}/i", "labels": "{split}/l"}
DATA |= {"classes": ("a", "b")}


def check(mode, inputs=(), **values):
    """Checks flags as the program does."""
    unset = dict.fromkeys(MODES[mode].flags)
    dispatch.check_paths(SimpleNamespace(**unset | values, mode=mode, inputs=inputs))


def test_flags_that_name_files():
    """Whoever adds a flag says whether it is a path."""
    named = {name for _, name in PATH_FLAGS}
    paths = {"workdir", "checkpoint", "fork_from", "source", "output", "compare", "plan_json"}
    paths |= {"input_json", "boxes", "calibration"}
    assert named == paths


@pytest.mark.parametrize(("mode", "name"), PATH_FLAGS)
@pytest.mark.parametrize("url", ["hdfs://host/run", "gs:/bucket/run"])
def test_unknown_schemes_are_refused(mode, name, url):
    with pytest.raises(UserError, match=rf"^--{name} must be a local path"):
        check(mode, **{name: url})


@pytest.mark.parametrize(("mode", "name"), PATH_FLAGS)
def test_buckets_are_accepted_or_refused_with_a_remedy(mode, name):
    flag = MODES[mode].flags[name]
    if flag.path != "local":
        check(mode, **{name: "gs://bucket/run"})
        if flag.path == "run":
            with pytest.raises(
                UserError, match=rf"^--{name} must be .* orbax .*; got 's3://b/run'"
            ):
                check(mode, **{name: "s3://b/run"})
        return
    with pytest.raises(UserError, match=rf"^--{name} must be a local path; .*: {flag.remedy}$"):
        check(mode, **{name: "gs://bucket/run"})
    assert flag.remedy


def test_inputs_of_predict():
    check("predict", ["gs://bucket/a.png", "b.png"])
    with pytest.raises(UserError, match="hdfs"):
        check("predict", ["hdfs://host/a.png"])


def test_options_that_name_files():
    named = {
        f"{prefix}{name}"
        for prefix, section in (("", Config), ("data.", DataConfig))
        for name, field in iter_options(section)
        if field.metadata["is_path"]
    }
    assert named == {
        "init_from",
        "run.compilation_cache",
        "data.root",
        "data.list_file",
        "data.keypoints.detections",
    }


@pytest.mark.parametrize("name", ["root", "list_file", "images", "labels"])
def test_options_of_data_refuse_unknown_schemes(name):
    with pytest.raises(DataError, match=rf"^config\.data\.{name} must be a "):
        DataConfig(**DATA | {name: "ftp://host/{split}"})


def test_folders_of_data_are_below_the_root():
    DataConfig(**DATA | {"root": "gs://bucket/data"})
    with pytest.raises(DataError, match=r"^config\.data\.images .* relative to data\.root"):
        DataConfig(**DATA | {"images": "gs://bucket/{split}"})


def test_configs_are_local():
    with pytest.raises(loading.ConfigError, match="--config must be a local"):
        loading.load("gs://bucket/config.py")


@pytest.mark.parametrize("name", ["init_from", "run.compilation_cache", "data.root"])
def test_options_name_the_package_of_a_scheme(monkeypatch, name):
    """At once, before the dataset is read."""
    config = loading.load("configs/quickstart.py:runlocal")
    config.update_from_flattened_dict({name: "az://bucket/x"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"^config\.{name}=az://bucket/x needs .* adlfs"):
        run_setup.parse_config(config)


@pytest.mark.parametrize("flag", ["workdir", "checkpoint"])
def test_runs_are_refused_before_their_package_is_asked_for(monkeypatch, capsys, flag):
    """Installing it would not help."""
    monkeypatch.setattr(command_line, "define_flags", lambda: None)
    with pytest.raises(SystemExit):
        command_line.parse(["main.py", "--mode=eval", f"--{flag}=s3://b/x"])
    assert "orbax" in capsys.readouterr().err
