"""The modes of `main.py`: description, example and flags of each. Needs only the standard library.

`modes/NAME.py` runs the mode NAME and imports JAX, which takes seconds. The command line is parsed
and `--help` is printed from this table before that. To add a mode, add an entry here and a module
with `run(args)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Flag:
    """A command-line flag.

    Attributes:
      help: description.
      default: its default value.
      kind: its type, as in absl's `flags.DEFINE_*`.
      minimum: lower bound of an integer.
      path: whether it names files or folders: "any" of this machine or URLs of buckets, "run" runs
        or checkpoints, "local" no URLs.
      remedy: what to do in place of a URL, for "local".
    """

    help: str
    default: Any = None
    kind: Literal["string", "integer", "float", "bool", "list"] = "string"
    minimum: int | None = None
    path: Literal["", "any", "run", "local"] = ""
    remedy: str = ""


@dataclass(frozen=True)
class Mode:
    """An entry of `MODES`.

    Attributes:
      summary: one-line description.
      example: other arguments of an example command.
      flags: the flags that the mode reads, by name.
      config: the source of the configuration: `--config`; or "run", the run in --workdir or
        --checkpoint unless there is `--config`; or "checkpoint" or "none", never `--config`.
      needs_linux: whether the mode depends on file locks, worker processes or data formats that
        were tested on Linux only.
      uses_devices: whether the mode needs JAX's devices, which on a TPU slice start together with
        those of the other hosts.
    """

    summary: str
    example: str
    flags: Mapping[str, Flag] = field(default_factory=dict)
    config: Literal["file", "run", "checkpoint", "none"] = "file"
    needs_linux: bool = False
    uses_devices: bool = True


_COPY_FIRST = "copy it first: gcloud storage cp -r URL FOLDER"
_CHECKPOINT = Flag("a run, its best/, or a STEP in its checkpoints/", path="run")
_CHECKPOINT_OF_RUN = Flag(
    f"{_CHECKPOINT.help}; by default the newest checkpoint in --workdir", path="run"
)
_WORKDIR = Flag("folder of the run", path="run")
_LONG_SIDE = Flag(
    "images with a longer side are downscaled to this many pixels, and their scores upsampled"
    " again; 0: never; by default twice the long side of a training crop",
    kind="integer",
    minimum=0,
)
_DISTRIBUTED = {
    "coordinator": Flag("several processes: HOST:PORT of process 0 (docs/distributed.md)"),
    "processes": Flag("several processes: their number", kind="integer", minimum=1),
    "process": Flag("several processes: index of this one, from 0", kind="integer", minimum=0),
    "distributed": Flag(
        "several processes, as the environment describes them: Slurm, Open MPI; TPU slices need no"
        " flag",
        default=False,
        kind="bool",
    ),
    "join_timeout": Flag(
        "several processes: seconds to wait until all have joined", 90, "integer", minimum=1
    ),
}

MODES = {
    "init": Mode(
        "write a config for the images and labels in --source",
        "--source=DIR --output=configs/mine.py",
        {
            "source": Flag("folder of the dataset", path="local", remedy=_COPY_FIRST),
            "output": Flag(
                "config file to write; an existing one is never overwritten",
                path="local",
                remedy="configs are files of this machine",
            ),
        },
        config="none",
        uses_devices=False,  # it asks for their memory where this host is the only one
    ),
    "train": Mode(
        "train, or resume the run in --workdir, then evaluate",
        "--config=camvid_w18s --config.data.root=data",
        {
            "workdir": Flag("folder of the run; by default runs/NAME", path="run"),
            "fork_from": Flag(
                "workdir or checkpoint of another run whose state this run starts from", path="run"
            ),
            "plan_json": Flag(
                "file that --mode=plan wrote for this step, to log the fraction of its speed",
                path="any",
            ),
            **_DISTRIBUTED,
        },
        needs_linux=True,
    ),
    "sweep": Mode(
        "train several variants with several seeds each, and compare their scores",
        "--config=ablation --rows=t1-baseline,t1-gfm",
        {
            "workdir": Flag(
                "folder of the sweep; by default runs/sweep-NAME",
                path="local",
                remedy="sweep in a local folder, then copy it: gcloud storage cp -r FOLDER URL",
            ),
            "rows": Flag(
                "the variants of --config to compare, comma-separated; each is config arguments and"
                " options, such as optim.momentum=0.8, joined by +; as-is; or another config"
            ),
            "seeds": Flag("number of seeds of each row, from 0; or a list, such as 4,5,", "3"),
            "reference": Flag("the row that others are compared with; by default the first"),
            "classes": Flag("the classes whose mean IoU is compared; by default all", kind="list"),
            "jobs": Flag("number of runs trained at once", 1, "integer", minimum=1),
        },
        needs_linux=True,
    ),
    "eval": Mode(
        "evaluate the newest checkpoint in --workdir, or --checkpoint",
        "--workdir=runs/camvid_w18s --config.eval.flip=True",
        {"workdir": _WORKDIR, "checkpoint": _CHECKPOINT_OF_RUN, **_DISTRIBUTED},
        config="run",
    ),
    "submit": Mode(
        "write predictions for the test split as a zip for the benchmark's server",
        "--workdir=runs/cityscapes_w48",
        {"workdir": _WORKDIR, "checkpoint": _CHECKPOINT_OF_RUN},
        config="run",
    ),
    "predict": Mode(
        "predict images, folders, videos or glob patterns with --checkpoint",
        "--checkpoint=runs/quickstart photos/ video.mp4",
        {
            "checkpoint": Flag(
                f"{_CHECKPOINT.help}; or an exported model.onnx, which needs no JAX, model.jax, or"
                " the folder of an export",
                path="any",
            ),
            "runtime": Flag(
                "jax or onnx; auto: ONNX Runtime for model.onnx, otherwise JAX",
                "auto",
            ),
            "output": Flag("folder of the predictions; by default predictions/", path="any"),
            "save": Flag(
                "outputs for each image: overlay, color, ids, probabilities, confidence, entropy,"
                " uncertainty, branches, gates; for poses overlay, heatmaps, branches, gates",
                kind="list",
            ),
            "unsure_below": Flag(
                "probability in 0..1: pixels whose largest class probability is below it become"
                " 'unsure', with the ignore label",
                kind="float",
            ),
            "tile": Flag(
                "predict images at full size in overlapping tiles of this side in pixels; by"
                " default only images of more than 134 million pixels, in tiles of twice the long"
                " side of a training crop",
                kind="integer",
                minimum=1,
            ),
            "tile_overlap": Flag(
                "overlap of neighboring tiles as a fraction of their side, 0 to 0.5; by default"
                " 0.25",
                kind="float",
            ),
            "legend": Flag("adds the class names below overlays", False, "bool"),
            "boxes": Flag(
                "for poses: x,y,w,h of each person, separated by ; or a JSON file with lists of"
                " boxes by image; by default the whole image is one person",
                path="any",
            ),
            "long_side": _LONG_SIDE,
        },
        config="checkpoint",
    ),
    "explain": Mode(
        "measure how branches and gates respond to the size of objects and to boundaries, next to"
        " those of --compare",
        "--checkpoint=runs/a --compare=runs/b",
        {
            "checkpoint": _CHECKPOINT,
            "compare": Flag("a second run or checkpoint, measured on the same images", path="run"),
            "output": Flag("folder of the results; by default explain/", path="any"),
        },
        config="run",
    ),
    "report": Mode(
        "write an HTML page about the run in --workdir, or about it and the run in --compare",
        "--workdir=runs/a --compare=runs/b",
        {
            "workdir": _WORKDIR,
            "output": Flag("HTML file to write; by default report.html in the run", path="any"),
            "compare": Flag("workdir of a second run to show side by side", path="run"),
        },
        config="checkpoint",
        uses_devices=False,
    ),
    "export": Mode(
        "write the network of --checkpoint as programs that run without this project",
        "--checkpoint=runs/quickstart --output=exported",
        {
            "checkpoint": _CHECKPOINT,
            "output": Flag("folder to write to; by default export/", path="any"),
            "long_side": _LONG_SIDE,
            "formats": Flag(
                "jax, onnx, onnx-float16, onnx-int8; for weights alone safetensors, pth; hub: a"
                " folder for the Hugging Face hub (docs/models.md)",
                ["jax", "onnx"],
                "list",
            ),
            "license": Flag(
                "hub: license of the weights, such as cc-by-4.0; by default unknown", ""
            ),
            "onnx_size": Flag("HEIGHTxWIDTH of the ONNX program's input; by default any size"),
            "calibration": Flag(
                "onnx-int8: folder of images like those to predict, of which 64 are read",
                path="any",
            ),
        },
        config="checkpoint",
    ),
    "prepare": Mode(
        "convert the downloads in --source to a prepared dataset, or draw labels from JSON, once",
        "--config=lip_w48 --source=downloads",
        {
            "source": Flag(
                "folder of the downloads; with data.annotations, data.root",
                path="local",
                remedy=_COPY_FIRST,
            ),
            "partial": Flag(
                "accept a number of records other than the published one, or missing images",
                False,
                "bool",
            ),
        },
        needs_linux=True,
        uses_devices=False,
    ),
    "audit": Mode(
        "check all labels of the training and evaluation splits, and count their classes",
        "--config=camvid_w18s --config.data.root=data",
        {
            "channel_statistics": Flag(
                "whether to compute data.mean and data.std over all pixels of the training split",
                False,
                "bool",
            )
        },
        uses_devices=False,
    ),
    "bench_input": Mode(
        "measure the images per second that this host can load, by number of worker processes",
        "--config=cityscapes_w18s --output=input.json",
        {
            "worker_counts": Flag(
                "numbers of worker processes to measure, such as 1,2,4; by default"
                " config.data.workers or, if that is auto, 0, 1, 2, 4 and so on up to the CPUs",
                kind="list",
            ),
            "seconds": Flag("duration of each measurement", 10, "integer", minimum=1),
            "output": Flag("JSON file to write the measurement to", path="any"),
        },
        needs_linux=True,
        uses_devices=False,
    ),
    "plan": Mode(
        "compile the steps for a --topology of chips that need not be present, and print their"
        " cost, next to those of --compare",
        "--config=cityscapes_w18s --topology=v5e:2x2",
        {
            "compare": Flag(
                "a second configuration, with the same overrides",
                path="local",
                remedy=_COPY_FIRST,
            ),
            "topology": Flag(
                "chips to compile for, such as v5e:4x4, two slices v5e:4x4*2, v5litepod-16, v5p-16,"
                " v6e-16, tpu7x-16, h100 or h100:2x8",
                "v5e:2x2",
            ),
            "image_size": Flag(
                "HEIGHTxWIDTH of an evaluation image; by default the largest one of the dataset,"
                " if it is there, or else the training crop"
            ),
            "input_json": Flag(
                "file that --mode=bench_input --output wrote, to compare with the input that a host"
                " needs",
                path="any",
            ),
            "plan_json": Flag("file to write the plan to", path="any"),
        },
    ),
    "describe": Mode(
        "print parameters and multiply-accumulates by stage",
        "--config=cityscapes_w48",
    ),
    "tables": Mode(
        "print the counts of all networks in the paper's tables, next to the printed ones",
        "",
        uses_devices=False,
    ),
}

FLAGS = {name: flag for mode in MODES.values() for name, flag in mode.flags.items()}
"""All flags by name. Modes that share a flag agree on its type and default."""


def modes_with_flag(name: str) -> list[str]:
    """Returns the modes that read a flag."""
    return [mode for mode, entry in MODES.items() if name in entry.flags]
