"""Writes a config for the images and labels in a folder."""

import glob
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from configs import loading
from configs.loading import plain_values
from configs.writing import Group, config_text
from data_pipelines import DataConfig, DataError, Source, audit_labels, group_issues, make_source
from data_pipelines.annotations.painting import make_painter
from data_pipelines.files.images import decode_image
from data_pipelines.inspection.annotations import draw
from data_pipelines.inspection.coding import Coding
from data_pipelines.inspection.layout import Layout
from data_pipelines.inspection.lists import list_text
from data_pipelines.inspection.proposal import Proposal, propose
from data_pipelines.labels import unpack_color
from data_pipelines.sources.audit import sample_indices
from gsto_jax import progress
from gsto_jax.devices import tpu_pod
from gsto_jax.drawing.tiles import write_image
from gsto_jax.errors import UserError
from gsto_jax.files import write_text
from gsto_jax.plan.chips import TPUS
from modes.contact_sheet import contact_sheet
from modes.program import command
from modes.terminal_output import log

_SHEET_IMAGES = 6
"""Number of images of each split on the contact sheet."""
CaptionedExample = tuple[str, np.ndarray, np.ndarray]
"""Caption, image and label."""
_DEFAULT_MEMORY = 2**33
"""Assumed memory in bytes where the system does not say it."""
_MAX_ROWS = 100
"""Number of ids or colors in the table."""


def run(args: Any) -> None:
    """Runs the mode. Raises UserError for wrong flags, DataError for unusable data."""
    source, output = _check_flags(args)
    with progress.track(f"inspecting {source}"):
        proposal = propose(source, *_device_memory())
    _log_proposal(proposal)
    text = _config_text(proposal, output, args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _write_lists(proposal.layout, output)
    write_text(output, text)
    log(f"wrote  {args.output}: edit it where it is wrong")
    if _draw_sheet(output, proposal):
        log(f"wrote  {_sheet(Path(args.output))}: look whether the labels fit the images")
    prepare = ["prepare"] if proposal.layout.annotated else []
    for mode in (*prepare, "audit", "train"):
        log(f"next   {command(mode, shlex.quote(f'--config={args.output}'))}")


def _check_flags(args: Any) -> tuple[Path, Path]:
    """Returns the folder of the dataset and the file to write. Raises UserError."""
    if not args.source:
        raise UserError("--mode=init needs --source=DIR, the folder of the images and labels")
    if not args.output:
        raise UserError("--mode=init needs --output=FILE, the config to write: configs/mine.py")
    output = Path(args.output).expanduser()
    if output.suffix != ".py":
        raise UserError(
            f"--output must be a Python file, such as configs/mine.py; got {args.output!r}"
        )
    for path in (output, _sheet(output), *_list_files(output)):
        if path.exists():
            raise UserError(
                f"{path} exists and is not overwritten: remove it, or choose another --output"
            )
    return Path(args.source).expanduser().absolute(), output.absolute()


def _list_files(output: Path) -> list[Path]:
    """Returns the list files that an earlier call wrote."""
    return sorted(output.parent.glob(f"{glob.escape(output.stem)}-*.txt"))


def _sheet(output: Path) -> Path:
    return output.with_suffix(".png")


def _device_memory() -> tuple[int, bool]:
    """Returns the memory of a device in bytes, and whether it is this host's CPU."""
    if tpu_pod.find_process() is not None:  # the chips wait for those of the other hosts
        return min(spec.memory for spec in TPUS.values()) * 2**30, False
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    on_cpu = device.platform == "cpu"
    if not limit and hasattr(os, "sysconf"):
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return limit or _DEFAULT_MEMORY, on_cpu


def _log_proposal(proposal: Proposal) -> None:
    layout, sizes = proposal.layout, proposal.sizes
    counts = ", ".join(f"{len(pairs)} {split}".strip() for split, pairs in layout.pairs.items())
    size = f"{sizes.width}x{sizes.height}" + ("" if sizes.is_uniform else " (median)")
    log(f"found  {layout.description}")
    log(f"images {counts}, of {size} pixels")
    log(f"labels {proposal.coding.description}")
    log(_table(proposal))
    if proposal.val_fraction:
        log(f"split  {proposal.val_fraction:.0%} of the images are chosen for val by a seed")
    if sizes.channels != 3:
        log(
            f"unsure images have {sizes.channels} channels: mean and standard deviation are guesses"
        )
    for doubt in proposal.doubts:
        log(f"unsure {doubt}")


def _table(proposal: Proposal) -> Table:
    """Returns a table of the ids or colors, their classes, and how often they occur."""
    coding = proposal.coding
    labels = f"{coding.num_read} of {coding.num_labels}" if coding.is_sample else coding.num_read
    table = Table(title=f"{labels} labels", title_justify="left")
    table.add_column("color" if coding.encoding == "colors" else "id", no_wrap=True)
    table.add_column("class", no_wrap=True)
    for column in ("pixels", "images"):
        table.add_column(column, justify="right", no_wrap=True)
    entries = proposal.classes.entries
    listed = entries if len(entries) <= _MAX_ROWS else entries[: _MAX_ROWS - 1]
    for entry in listed:
        table.add_row(
            "" if proposal.layout.annotated else _value(coding, entry.value),
            entry.name or f"ignored: {entry.reason}",
            _percent(coding, entry.value),
            str(coding.images[entry.value]),
        )
    if len(listed) < len(entries):
        table.add_row("...", f"{len(entries) - len(listed)} more, see the config", "", "")
    return table


def _percent(coding: Coding, value: int) -> str:
    share = coding.share(value)
    return "<0.01%" if 0 < share < 1e-4 else f"{share:.2%}"


def _value(coding: Coding, value: int) -> str:
    return str(unpack_color(value)) if coding.encoding == "colors" else str(value)


def _write_lists(layout: Layout, output: Path) -> None:
    """Writes list files if no options describe the layout."""
    if not layout.needs_lists:
        return
    for split, pairs in layout.pairs.items():
        path = output.with_name(f"{output.stem}-{split or 'all'}.txt")
        write_text(path, list_text(pairs, layout.root))
        log(f"wrote  {path}, which pairs images and labels")


def _config_text(proposal: Proposal, output: Path, name: str) -> str:
    layout, classes, sizes = proposal.layout, proposal.classes, proposal.sizes
    count = sum(map(len, layout.pairs.values()))
    paragraphs = [
        f"    {command('train', f'--config={name}')}",
        f"Written by --mode=init for {layout.root}:\n"
        f"{layout.description}; {proposal.coding.description}.",
    ]
    if proposal.doubts:
        paragraphs.append("Unsure:\n" + "\n".join(f"- {doubt}" for doubt in proposal.doubts))
    groups = [
        Group({"name": output.stem}),
        Group(
            {
                "model.init": "he",
                "model.hrnet.gfm_style": "residual",
                "model.hrnet.gtm_style": "residual",
                "optim.learning_rate": sizes.learning_rate,
            },
            "From scratch; with init_from=FILE from weights of HRNet. Those of GSTO-HRNet have "
            "released gates.",
        ),
        Group(
            {
                "train.batch_size": sizes.batch_size,
                "train.steps": sizes.steps,
                "eval.batch_size": sizes.eval_batch_size,
            },
            f"For {sizes.device}.",
        ),
        Group({f"data.{k}": v for k, v in _file_options(proposal, output).items()}),
        _class_group(proposal),
        Group(
            {
                "data.crop": sizes.crop,
                "data.scale_min": sizes.scales[0],
                "data.num_scales": sizes.scales[1],
            },
            f"Images have {sizes.width}x{sizes.height} pixels.",
            {"data.crop": "height, width"},
        ),
        *_channel_groups(sizes.channels),
    ]
    summary = f"{output.stem}: {len(classes.classes)} classes, {count} images."
    return config_text(summary, paragraphs, groups)


def _channel_groups(channels: int) -> list[Group]:
    """Returns the options of images that are not read as RGB."""
    if channels == 3:
        return []
    options: dict[str, Any] = {
        "data.channels": channels,
        "data.mean": (0.5,) * channels,
        "data.std": (0.25,) * channels,
    }
    return [Group(options, "Guesses; --mode=audit --channel_statistics computes mean and std.")]


def _file_options(proposal: Proposal, output: Path) -> dict[str, Any]:
    """Returns the options that say where the files are, and how they are split."""
    layout = proposal.layout
    options: dict[str, Any] = {"root": str(layout.root), **layout.options}
    if layout.needs_lists:
        name = "{split}" if layout.train_split else "all"
        options["list_file"] = str(output.with_name(f"{output.stem}-{name}.txt"))
    if layout.train_split not in ("", "train"):
        options["train_split"] = layout.train_split
    if layout.eval_split not in ("", "val"):
        options["eval_split"] = layout.eval_split
    if proposal.val_fraction:
        options["val_fraction"] = proposal.val_fraction
        images = str(options.get("images", ""))
        if (layout.root / images.replace("{split}", "val")).is_dir() and "{split}" in images:
            options["eval_split"] = "held_out"  # val has images, but no labels
    elif not layout.eval_split:  # a single image
        options["eval_split"] = layout.train_split or "train"
    return options


def _class_group(proposal: Proposal) -> Group:
    coding, classes = proposal.coding, proposal.classes
    names = [entry.name for entry in classes.classes]
    shares = [f"{_percent(coding, entry.value)} of the pixels" for entry in classes.classes]
    reasons = [f"ignored: {entry.reason}" for entry in classes.ignored]
    notes: dict[str, str | Sequence[str]] = {
        "data.classes": shares,
        "data.palette": names,
        "data.id_map": [*names, *reasons],
        "data.ignore_colors": reasons,
        "data.color_tolerance": "altered colors get the nearest class",
    }
    options = {f"data.{name}": value for name, value in classes.options.items()}
    return Group(options, notes={name: note for name, note in notes.items() if name in options})


def _draw_sheet(output: Path, proposal: Proposal) -> bool:
    """Loads the written config, reads some images and labels with it, and draws them.

    Returns:
      Whether there are any that can be read.
    """
    data = DataConfig(**plain_values(loading.load(str(output)))["data"])
    if proposal.layout.annotated:
        examples = list(_annotated_examples(proposal.layout, data))
    else:
        examples = []
        for split in dict.fromkeys((data.train_split, data.eval_split)):
            source = make_source(data, split)
            stats = audit_labels(source, sample_indices(len(source)))
            for line in group_issues(stats.problems):
                log(f"problem in {split}: {line}")
            for line in group_issues(stats.warnings):
                log(f"unsure {split}: {line}")
            examples += _examples(split, source)
    if examples:
        write_image(_sheet(output), contact_sheet(examples, data.classes, data.palette))
    return bool(examples)


def _examples(split: str, source: Source) -> Iterator[CaptionedExample]:
    """Yields caption, image and label of a few examples that can be read."""
    for index in sample_indices(len(source), _SHEET_IMAGES):
        try:
            example = source[index]
        except DataError:
            continue
        yield f"{split}: {source.name(index)}", example["image"], np.asarray(example["label"])


def _annotated_examples(layout: Layout, data: DataConfig) -> Iterator[CaptionedExample]:
    """Yields the same of images whose labels are still to be drawn."""
    painter = make_painter(data, layout.categories)
    images = list(layout.annotated)
    for index in sample_indices(len(images), 2 * _SHEET_IMAGES):
        path = images[index]
        try:
            label = draw(painter, path, layout)
            image = decode_image(path.read_bytes(), str(path), data.decode_options).pixels
        except DataError as error:
            log(f"unsure {error}")
            continue
        yield path.name, image, label
