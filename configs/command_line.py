"""The command line: flags, overrides of settings, and their errors as one message.

Imports no JAX, so that a mistake is told at once.
"""

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

TRAIN_PACKAGES = (
    *("cv2", "PIL", "grain", "array_record", "clu", "jinja2", "markupsafe", "matplotlib"),
    *("pycocotools", "rich", "scipy", "tensorboard", "tensorflow", "tensorflow_datasets"),
    *("zstandard", "importlib_resources"),
)
"""Modules of the extra `train`: `main.py` names the remedy where one is missing."""


def parse(argv: list[str], settings: ConfigDict, modes: Mapping[str, str]) -> list[str]:
    """Defines and parses the flags; a command line that cannot be read ends the program.

    Args:
      argv: the command line.
      settings: a configuration with every field there is.
      modes: what `--mode` may be, and what each does.

    Returns:
      The arguments that are no flags, the program's name first.
    """
    known = list(_flat(settings))
    for arg in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", arg)
        if match and match[1] not in known:
            near = difflib.get_close_matches(match[1], known, n=1, cutoff=0.4)
            what = f"did you mean config.{near[0]}?" if near else "configs/base.py holds all"
            refuse(f"unknown setting config.{match[1]}: {what}")
        match = re.match(r"--?config=([^:]*)", arg)
        if match and not match[1].endswith(".py"):
            refuse(f"--config={match[1]}: give a Python file, such as configs/quickstart.py")
    try:
        # Reads the overrides at once, so it comes after the check.
        config_flags.DEFINE_config_file(
            "config", "configs/quickstart.py", "FILE[:WORDS]; --config.SECTION.FIELD=VALUE sets one"
        )
        flags.DEFINE_enum(
            "mode", "train", list(modes), "; ".join(f"{k}: {v}" for k, v in modes.items())
        )
        flags.DEFINE_string(
            "workdir", None, "folder of the run; when training, by default runs/NAME"
        )
        flags.DEFINE_string(
            "fork_from", None, "train: workdir or checkpoint of another run to start from"
        )
        flags.DEFINE_string(
            "checkpoint",
            None,
            "predict, export, eval, submit: a run, its best/, or a STEP in its checkpoints/",
        )
        flags.DEFINE_string("output", None, "predict, report, export: where to write")
        flags.DEFINE_list(
            "save",
            None,
            "predict: what to write of a picture; overlay, color, ids, branches, gates; of poses"
            " overlay, heatmaps, branches, gates",
        )
        flags.DEFINE_string(
            "boxes",
            None,
            "predict, of poses: x,y,w,h of each person, with ; between them, or a JSON file of"
            " lists of boxes by picture; by default the whole picture is one person",
        )
        flags.DEFINE_integer(
            "long_side",
            None,
            "predict: larger pictures are scaled down to this many pixels and their scores up"
            " again; 0: none is; by default twice the long side of a training crop",
            lower_bound=0,
        )
        flags.DEFINE_integer(
            "multiple",
            0,
            "predict: the network sees sides rounded up to multiples of this; 1: as they are; 0: as"
            " they are, unless that takes more than 6 shapes",
            lower_bound=0,
        )
        flags.DEFINE_list(
            "formats", ["jax", "onnx"], "export: jax, onnx; weights alone: safetensors, pth"
        )
        flags.DEFINE_string(
            "onnx_size", None, "export: HEIGHTxWIDTH that the ONNX program takes; by default any"
        )
        flags.DEFINE_string(
            "compare",
            None,
            "report: workdir of another run to set beside; plan: another configuration, to which"
            " the same settings apply",
        )
        flags.DEFINE_string(
            "topology", "v5e:2x2", "plan: chips to compile for, such as v5e:4x4, h100 or h100:8"
        )
        flags.DEFINE_string(
            "rows",
            None,
            "sweep: what to compare, with commas between; each is what changes in --config: words"
            " and settings, such as optim.momentum=0.8, with + between; as-is; or another FILE",
        )
        flags.DEFINE_string(
            "seeds", "3", "sweep: how many seeds each row is trained with, from 0; or a list: 4,5,"
        )
        flags.DEFINE_string(
            "reference", None, "sweep: the row that the others are compared with; the first one"
        )
        flags.DEFINE_integer("jobs", 1, "sweep: how many runs are trained at once", lower_bound=1)
        flags.DEFINE_string(
            "plan_json",
            None,
            "plan: file to write to what was found; train: such a file of this very step, to say"
            " what share of its speed is reached",
        )
        flags.DEFINE_string(
            "coordinator",
            None,
            "train, eval, by several processes: HOST:PORT of process 0 (docs/distributed.md)",
        )
        flags.DEFINE_integer("processes", None, "... how many there are", lower_bound=1)
        flags.DEFINE_integer("process", None, "... which of them this is, from 0", lower_bound=0)
        flags.DEFINE_bool(
            "distributed", False, "... as the environment says: TPU pods, Slurm, Open MPI"
        )
        flags.DEFINE_integer(
            "join_timeout", 90, "... seconds for all of them to come", lower_bound=1
        )
        flags.DEFINE_string("source", None, "prepare: folder of the downloads")
        flags.DEFINE_bool(
            "partial", False, "prepare: accept another number of records than the published one"
        )
        logging.set_verbosity(logging.WARNING)
        rest = flags.FLAGS(argv)
        _ = flags.FLAGS.config.name  # a file that cannot be loaded says so only when it is read
        return rest
    except Exception as error:  # a configuration is a program: it may fail in any way
        if isinstance(error, ModuleNotFoundError) and error.name in TRAIN_PACKAGES:
            raise
        refuse(reason(error))


def overrides() -> list[str]:
    """The arguments of this command line that change settings."""
    return [arg for arg in sys.argv[1:] if re.match(r"--?(?:no)?config\.", arg)]


def another(name: str, changed: Sequence[str] | None = None) -> ConfigDict:
    """A configuration beside that of `--config`.

    Args:
      name: FILE[:WORDS].
      changed: arguments that override its settings; None for those of this command line.

    Raises:
      Exception: the file cannot be loaded, or a word or an override is none of its own.
    """
    changed = overrides() if changed is None else changed
    argv, values = ["", f"--config={name}", *changed], flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    _ = holder.value.name  # a file that cannot be loaded says so only when it is read
    return holder.value


def reason(error: Exception) -> str:
    """Why a configuration could not be read, in a line."""
    # Its traceback stands in the text: the last line counts.
    lines = str(error).strip().splitlines() or [f"{type(error).__name__} in the configuration"]
    text = re.sub(r"^\w+Error: ", "", lines[-1].strip())
    if found := re.fullmatch(r"\[Errno 2\] No such file or directory: '(.*\.py)'", text):
        return f"there is no configuration {found[1]}: configs/ holds those that come with this"
    return text


def refuse(message: str, status: int = 2) -> NoReturn:
    """Ends the program with one message. Status 2: the command or its input can be mended."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def _flat(config: ConfigDict, place: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{place}{name}.")
        else:
            yield f"{place}{name}"
