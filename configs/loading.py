"""Loads config files and the configs of runs. Errors name file, line and option.

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
from gsto_jax.errors import UserError
from gsto_jax.storage import has_scheme

ROOT = Path(__file__).parents[1]
DEFAULT = "quickstart"
TRAIN_PACKAGES = (
    *("cv2", "PIL", "grain", "array_record", "clu", "jinja2", "markupsafe", "matplotlib"),
    *("pycocotools", "rich", "scipy", "tensorboard", "tensorflow", "tensorflow_datasets"),
    *("tifffile", "zstandard", "importlib_resources"),
)
"""Modules of the extra `train`. If one is missing, the program prints how to install it."""
_EXPECTED = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "True or False",
    tuple: "a tuple",
    ConfigDict: "a section, whose options are set one by one",
}
"""Allowed values in words, by the type of the option."""


class ConfigError(Exception):
    """An invalid config; the message says where, and the remedy."""


def load(name: str) -> ConfigDict:
    """Runs a config file.

    Args:
      name: NAME[:ARGUMENTS], of a config in this folder; or FILE[:ARGUMENTS], relative to the
        working directory or the folder of `main.py`.

    Returns:
      The config, locked.

    Raises:
      ConfigError: there is no such file, or it does not return all options of `configs/base.py`.
    """
    if has_scheme(name):
        raise ConfigError(f"--config must be a local Python file; got {name!r}: copy it first")
    file, colon, argument = name.partition(":")
    path = _find_file(file, colon + argument)
    try:
        get_config = getattr(_import_file(path), "get_config", None)
        if not callable(get_config):
            raise ConfigError(
                f"{file} must define a function get_config(arg=None) that returns the config, as "
                "configs/quickstart.py does"
            )
        arguments = [argument] if colon else []
        try:
            inspect.signature(get_config).bind(*arguments)
        except TypeError:
            problem = "takes no arguments" if colon else "requires arguments"
            raise ConfigError(f"get_config() in {file} {problem} after a colon") from None
        config = get_config(*arguments)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a config file is a program: it may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name in TRAIN_PACKAGES:
            raise
        raise ConfigError(_error_message(error, path, file)) from None
    _check_complete(config, file)
    return config.lock()


def load_from_run(folder: Path) -> ConfigDict | None:
    """Returns the config of the run in a folder, or None if there is no run.

    Args:
      folder: folder of the run, or of one of its checkpoints.

    Raises:
      ConfigError: the run has other options than this version.
    """
    run = folder
    if folder.name.isdigit():
        run = folder.parents[1]
    elif folder.name in ("best", "checkpoints"):
        run = folder.parent
    # A checkpoint that was copied without its run has the config too.
    for path in (run / "config.json", folder / "config.json", folder / "run" / "metadata"):
        try:
            values = json.loads(path.read_text())
            values = values.get("config", values)
            return _fill(base.get_config(), values)
        except (OSError, ValueError, AttributeError):
            continue
        except (KeyError, TypeError) as error:
            name = error.args[0]
            raise ConfigError(
                f"{path} was written by another version ({name}): pass the config file as --config"
            ) from None
    return None


def plain_values(config: ConfigDict) -> dict[str, Any]:
    """Returns all options as nested plain values, with the default palette filled in.

    Raises:
      UserError: a value that JSON cannot store, such as bytes or a set.
    """
    # Imported here: it takes two seconds, and the terminal should first display the start.
    from data_pipelines.image_class_options import CLASS_SOURCES
    from data_pipelines.labels import distinct_colors

    for name, value in flatten(config.to_dict()).items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise UserError(
                f"config.{name} must be a number, text, True, False, None or a list of these; "
                f"got {value!r}"
            ) from None
    values = json.loads(config.to_json())
    data = values["data"]
    has_maps = data["source"] not in CLASS_SOURCES
    if has_maps and not data["palette"] and data["label_encoding"] == "ids":
        data["palette"] = [list(color) for color in distinct_colors(len(data["classes"]))]
    return values


def names(config: ConfigDict) -> list[str]:
    """Returns the dotted names of all options, such as "train.steps"."""
    return list(flatten(config.to_dict()))


def unknown_option(name: str, options: list[str]) -> str:
    """Returns an error message about an option that does not exist, with a similar one."""
    similar = difflib.get_close_matches(name, options, n=1, cutoff=0.4)
    remedy = f"did you mean config.{similar[0]}?" if similar else "docs/config.md lists all options"
    return f"unknown option config.{name}: {remedy}"


def _find_file(file: str, argument: str) -> Path:
    path, packaged = Path(file).expanduser(), packaged_configs()
    if file in packaged:
        return packaged[file]
    for candidate in (path, ROOT / path):
        if path.suffix == ".py" and candidate.is_file():
            return candidate.absolute()
    if similar := similar_config(file):
        remedy = f"did you mean {similar}{argument}?"
    elif path.suffix != ".py":
        raise ConfigError(
            f"--config must be one of {', '.join(packaged)}, or a Python file; got {file!r}"
        )
    else:
        remedy = f"this package has {', '.join(packaged)}"
    raise ConfigError(f"there is no config {file}: {remedy}")


def packaged_configs() -> dict[str, Path]:
    """Returns the files of the configs in this folder, by name."""
    paths = sorted((ROOT / "configs").glob("*.py"))
    return {path.stem: path for path in paths if _is_config(path)}


def similar_config(name: str) -> str:
    """Returns the packaged config whose name is most similar to a text; "" if none is similar."""
    similar = difflib.get_close_matches(Path(name).stem, packaged_configs(), n=1, cutoff=0.7)
    return similar[0] if similar else ""


def _is_config(path: Path) -> bool:
    return path.stem != "base" and "\ndef get_config(" in path.read_text()


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
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
    expected, actual = names(base.get_config()), names(config)
    for name in sorted(set(actual).difference(expected)):
        if any(option.startswith(f"{name}.") for option in expected):
            raise ConfigError(f"{file}: config.{name} must be {_EXPECTED[ConfigDict]}")
        raise ConfigError(f"{file}: {unknown_option(name, expected)}")
    for name in expected:
        if name not in actual:
            raise ConfigError(f"{file}: config.{name} is missing: start from base.get_config()")


def _error_message(error: BaseException, path: Path, file: str) -> str:
    """Returns one line that says where and why a config file failed."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        source = f": {error.text.strip()}" if error.text else ""
        return f"{file}, line {error.lineno}: {error.msg}{source}"
    frames = list(traceback.walk_tb(error.__traceback__))
    in_file = [(frame, line) for frame, line in frames if frame.f_code.co_filename == str(path)]
    location = f"{file}, line {in_file[-1][1]}: " if in_file else f"{file}: "
    if message := _option_error(error, frames[-1][0], [frame for frame, _ in in_file]):
        return location + message
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    raised_in = Path(frames[-1][0].f_code.co_filename)
    if raised_in.parent == ROOT / "configs" and _is_raise(*frames[-1]):
        return first_line  # about an argument after the colon
    is_clear = isinstance(error, NameError | ImportError | AttributeError | ValueError)
    return location + (first_line if is_clear else f"{type(error).__name__}: {first_line}")


def _is_raise(frame: FrameType, line: int) -> bool:
    return linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")


def _option_error(error: BaseException, last: FrameType, in_file: list[FrameType]) -> str:
    """Returns a message about an error that accessing a config option raised; "" for others."""
    values = last.f_locals
    section, key = values.get("self"), values.get("key", values.get("attribute"))
    if not isinstance(section, ConfigDict) or not isinstance(key, str):
        return ""
    roots = [value for frame in in_file for value in frame.f_locals.values()]
    prefixes = [_prefix(root, section) for root in roots if isinstance(root, ConfigDict)]
    prefix = max(filter(None, prefixes), key=len, default="")
    name = prefix + key
    if isinstance(error, TypeError) and key in section:
        expected = _EXPECTED[type(section[key])]
        return f"config.{name} must be {expected}; got {values.get('value')!r}"
    if key in section:
        return ""
    if similar := difflib.get_close_matches(key, list(section), n=1):
        return f"unknown option config.{name}: did you mean config.{prefix}{similar[0]}?"
    return unknown_option(name, names(base.get_config()))


def _prefix(root: ConfigDict, section: ConfigDict, prefix: str = "") -> str | None:
    """Returns the dotted path of a section below another, such as "data.keypoints.", or None."""
    if root is section:
        return prefix
    for name, value in root.items():
        if isinstance(value, ConfigDict):
            path = _prefix(value, section, f"{prefix}{name}.")
            if path is not None:
                return path
    return None


def _fill(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Sets all options to nested plain values."""
    options, expected = flatten(values), names(config)
    for name in sorted(set(options).symmetric_difference(expected)):
        raise KeyError(f"it {'lacks' if name in expected else 'has'} the option {name}")
    config.update_from_flattened_dict({name: _tuples(value) for name, value in options.items()})
    return config


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
