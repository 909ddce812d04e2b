"""Loads configurations: files, and those of runs. Errors name file, line and setting.

Imports no JAX.
"""

import difflib
import importlib.util
import inspect
import json
import linecache
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from ml_collections import ConfigDict

from configs import base
from gsto_jax.config import flatten

ROOT = Path(__file__).parents[1]
DEFAULT = str(ROOT / "configs" / "quickstart.py")
TRAIN_PACKAGES = (
    *("cv2", "PIL", "grain", "array_record", "clu", "jinja2", "markupsafe", "matplotlib"),
    *("pycocotools", "rich", "scipy", "tensorboard", "tensorflow", "tensorflow_datasets"),
    *("zstandard", "importlib_resources"),
)
"""Modules of the extra `train`: `main.py` names the remedy where one is missing."""
_TYPES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    tuple: "a tuple",
    ConfigDict: "no value to a section, but to a setting in it",
}


class ConfigError(Exception):
    """A configuration that cannot be used; the message says where it fails, and the remedy."""


def load(name: str) -> ConfigDict:
    """Runs a configuration file.

    Args:
      name: FILE[:WORDS]. FILE is relative to the working directory or to that of `main.py`.

    Returns:
      Its settings, locked.

    Raises:
      ConfigError: there is no such file, or it does not return all settings of `configs/base.py`.
    """
    file, colon, words = name.partition(":")
    path = _find(file, colon + words)
    try:
        get_config = getattr(_run(path), "get_config", None)
        if not callable(get_config):
            raise ConfigError(
                f"{file} defines no function get_config(arg=None) that returns the settings, as "
                "configs/quickstart.py does"
            )
        arguments = [words] if colon else []
        try:
            inspect.signature(get_config).bind(*arguments)
        except TypeError:
            takes = "takes no words" if colon else "needs words"
            raise ConfigError(f"get_config() in {file} {takes} after a colon") from None
        config = get_config(*arguments)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a configuration is a program: it may fail in any way
        if isinstance(error, ModuleNotFoundError) and error.name in TRAIN_PACKAGES:
            raise
        raise ConfigError(_describe(error, path, file)) from None
    _check_complete(config, file)
    return config.lock()


def of_run(folder: Path) -> ConfigDict | None:
    """Returns the settings of the run in a folder; None where there is none.

    Args:
      folder: of the run, or of a checkpoint of one.

    Raises:
      ConfigError: it has a setting that this version lacks.
    """
    run = folder
    if folder.name.isdigit():
        run = folder.parents[1]
    elif folder.name in ("best", "checkpoints"):
        run = folder.parent
    # A checkpoint alone has them too.
    for path in (run / "config.json", folder / "config.json", folder / "run" / "metadata"):
        try:
            values = json.loads(path.read_text())
            values = values.get("config", values)
            return _filled(base.get_config(), values)
        except (OSError, ValueError, AttributeError):
            continue
        except (KeyError, TypeError) as error:
            name = error.args[0]
            raise ConfigError(
                f"{path} does not fit this version ({name}): give the configuration as --config"
            ) from None
    return None


def names(config: ConfigDict) -> list[str]:
    """Returns the dotted names of all settings, such as "train.steps"."""
    return list(flatten(config.to_dict()))


def unknown_setting(name: str, known: list[str]) -> str:
    """Returns the message about a setting that does not exist, with the nearest one."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    remedy = f"did you mean config.{near[0]}?" if near else "docs/config.md lists all"
    return f"unknown setting config.{name}: {remedy}"


def _find(file: str, words: str) -> Path:
    path = Path(file).expanduser()
    for candidate in (path, ROOT / path):
        if path.suffix == ".py" and candidate.is_file():
            return candidate.absolute()
    if near := nearest(file):
        remedy = f"did you mean {near}{words}?"
    elif path.suffix != ".py":
        raise ConfigError(f"{file!r} is no Python file: give one, such as configs/quickstart.py")
    else:
        remedy = "configs/ holds those that come with this"
    raise ConfigError(f"there is no configuration {file}: {remedy}")


def nearest(name: str) -> str:
    """Returns the file of configs/ whose name is most like a text; "" if none is like it."""
    ours = [path.stem for path in (ROOT / "configs").glob("*.py") if _is_configuration(path)]
    near = difflib.get_close_matches(Path(name).stem, ours, n=1, cutoff=0.7)
    return f"configs/{near[0]}.py" if near else ""


def _is_configuration(path: Path) -> bool:
    return path.stem != "base" and "\ndef get_config(" in path.read_text()


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"configuration_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_complete(config: Any, file: str) -> None:
    if not isinstance(config, ConfigDict):
        kind = "nothing" if config is None else f"a {type(config).__name__}"
        raise ConfigError(
            f"get_config() in {file} returns {kind}: return base.get_config() with your changes"
        )
    known, given = names(base.get_config()), names(config)
    for name in sorted(set(given).difference(known)):
        if any(setting.startswith(f"{name}.") for setting in known):
            raise ConfigError(f"{file}: a value replaces config.{name}: give {_TYPES[ConfigDict]}")
        raise ConfigError(f"{file}: {unknown_setting(name, known)}")
    for name in known:
        if name not in given:
            raise ConfigError(f"{file}: config.{name} is missing: start from base.get_config()")


def _describe(error: BaseException, path: Path, file: str) -> str:
    """Returns where a file fails, and why, in a line."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        source = f": {error.text.strip()}" if error.text else ""
        return f"{file}, line {error.lineno}: {error.msg}{source}"
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in frames if frame.f_code.co_filename == str(path)]
    place = f"{file}, line {own[-1][1]}: " if own else f"{file}: "
    if own and (message := _mistaken_setting(error, frames[-1][0], [frame for frame, _ in own])):
        return place + message
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    raised_in = Path(frames[-1][0].f_code.co_filename)
    if raised_in.parent == ROOT / "configs" and _is_raise(*frames[-1]):
        return first  # a message of our own, about words
    plain = isinstance(error, NameError | ImportError | AttributeError | ValueError)
    return place + (first if plain else f"{type(error).__name__}: {first}")


def _is_raise(frame: FrameType, line: int) -> bool:
    return linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")


def _mistaken_setting(error: BaseException, last: FrameType, own: list[FrameType]) -> str:
    """Returns what is wrong with the setting that an error is about; "" if it is about none."""
    values = last.f_locals
    section, key = values.get("self"), values.get("key", values.get("attribute"))
    if not isinstance(section, ConfigDict) or not isinstance(key, str):
        return ""
    roots = [value for frame in own for value in frame.f_locals.values()]
    places = [_place(root, section) for root in roots if isinstance(root, ConfigDict)]
    name = max(filter(None, places), key=len, default="") + key
    if isinstance(error, TypeError) and key in section:
        return f"config.{name} is {values.get('value')!r}: give {_TYPES[type(section[key])]}"
    if key in section:
        return ""
    if near := difflib.get_close_matches(key, list(section), n=1):
        place = name.removesuffix(key)
        return f"unknown setting config.{name}: did you mean config.{place}{near[0]}?"
    return unknown_setting(name, names(base.get_config()))


def _place(root: ConfigDict, section: ConfigDict, place: str = "") -> str | None:
    """Returns where a section lies below another, such as "data.keypoints."; None if it does not.

    A local variable that holds the section itself gives "".
    """
    if root is section:
        return place
    for name, value in root.items():
        if isinstance(value, ConfigDict):
            deeper = _place(value, section, f"{place}{name}.")
            if deeper is not None:
                return deeper
    return None


def _filled(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Sets all settings to nested plain values."""
    options, known = flatten(values), names(config)
    for name in sorted(set(options).symmetric_difference(known)):
        raise KeyError(f"it {'lacks' if name in known else 'has'} the setting {name}")
    config.update_from_flattened_dict({name: _tuples(value) for name, value in options.items()})
    return config


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
