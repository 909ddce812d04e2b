"""Model cards, as the Hugging Face hub reads them: a YAML header, then Markdown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_jax.hub.origin import UNKNOWN, Origin, license_of
from gsto_jax.runs.trained import TrainedModel

PIPELINES = {
    "segmentation": "image-segmentation",
    "pose": "keypoint-detection",
    "classification": "image-classification",
}
"""Tasks of the hub."""
_NOT_SCORES = ("seconds", "ceiling_")


def model_card(
    trained: TrainedModel,
    description: Mapping[str, Any],
    origin: Origin,
    scores: Mapping[str, Any] | None,
) -> str:
    """Returns the model card of a trained network.

    Args:
      trained: the network.
      description: contents of config.json.
      origin: where the weights came from, and their license.
      scores: record of an evaluation, if there is one.
    """
    name = description["name"]
    header = _header(trained, description, origin, scores)
    # JSON is YAML too, and quotes every name that needs it.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    sections = [
        f"# {name}",
        _summary(description),
        _usage(description),
        "## Scores",
        _score_text(scores, description),
        "## Data",
        _data_text(trained, description),
        "## Weights and license",
        _license_text(origin),
    ]
    return "\n".join(["---", *lines, "---", "", "\n\n".join(sections), ""])


def _header(
    trained: TrainedModel,
    description: Mapping[str, Any],
    origin: Origin,
    scores: Mapping[str, Any] | None,
) -> dict[str, Any]:
    pipeline = PIPELINES[description["task"]]
    header: dict[str, Any] = {
        **origin.license_fields,
        "library_name": description["library_name"],
        "pipeline_tag": pipeline,
        "tags": ["jax", "flax", pipeline, description["architecture"], "arxiv:2005.13363"],
    }
    values = score_values(scores)
    if scores is None or not values:
        return header
    dataset = dataset_name(trained.config)
    return header | {
        "metrics": list(values),
        "model-index": [
            {
                "name": description["name"],
                "results": [
                    {
                        "task": {"type": pipeline},
                        "dataset": {
                            "type": dataset.lower().replace(" ", "-"),
                            "name": dataset,
                            "split": scores.get("split", ""),
                        },
                        "metrics": [{"type": key, "value": x} for key, x in values.items()],
                    }
                ],
            }
        ],
    }


def score_values(scores: Mapping[str, Any] | None) -> dict[str, float]:
    """Returns the scores in the record of an evaluation by name, as fractions of 1."""
    return {
        name: value
        for name, value in (scores or {}).items()
        if isinstance(value, float) and not name.startswith(_NOT_SCORES)
    }


def dataset_name(config: Mapping[str, Any]) -> str:
    """Returns a name of the dataset of a run, without folders of the machine."""
    data = config["data"]
    return data["name"] or Path(data["root"]).name or data["source"]


def _summary(description: Mapping[str, Any]) -> str:
    outputs = "joints" if description["task"] == "pose" else "classes"
    options = ", ".join(f"`{name}={value!r}`" for name, value in description["options"].items())
    return (
        f"`{description['architecture']}`{f' with {options}' if options else ''} of gsto_jax, for "
        f"{description['num_classes']} {outputs}, after {description['step']} training steps."
    )


def _usage(description: Mapping[str, Any]) -> str:
    shape = f"b h w {description['channels']}"
    color = " RGB" if description["channels"] == 3 else ""
    result = "heatmaps" if description["task"] == "pose" else "class scores"
    if description["task"] != "classification":
        result += f" at 1/{description['output_stride']} of its size"
    return f"""\
```python
import gsto_jax
import jax
from huggingface_hub import snapshot_download

folder = snapshot_download("USER/NAME")  # or a local copy of this folder
model, variables = gsto_jax.create_model(weights=folder)
logits = jax.jit(model.apply)(variables, image).logits
```

`image` is `{shape}`{color}, normalized as `preprocessor_config.json` says: (pixel / 255 - mean) /
std. `logits` are {result}; `id2label` in `config.json` names the channels."""


def _score_text(scores: Mapping[str, Any] | None, description: Mapping[str, Any]) -> str:
    values = score_values(scores)
    if scores is None or not values:
        return f"Step {description['step']} has not been evaluated."
    rows = [f"| {name} | {100 * value:.2f} |" for name, value in values.items()]
    classes = [
        f"| IoU of {name} | {100 * value:.2f} |"
        for name, value in (scores.get("class_iou") or {}).items()
        if value is not None
    ]
    protocol = f"{scores.get('images', '?')} images, {scores.get('protocol', '')}"
    table = ["| score | % |", "|---|---|", *rows, *classes]
    return f"On the split {scores.get('split', '')}: {protocol}.\n\n" + "\n".join(table)


def _data_text(trained: TrainedModel, description: Mapping[str, Any]) -> str:
    data = trained.config["data"]
    labels = ", ".join(description["label2id"])
    return f"Trained on {dataset_name(trained.config)}, split {data['train_split']}: {labels}."


def _license_text(origin: Origin) -> str:
    lines = [
        "The license of these weights is unknown: ask who published them."
        if origin.license == UNKNOWN
        else f"License: {origin.license}."
    ]
    for source in origin.sources:
        checksum = f", SHA-256 {source['sha256']}" if source["sha256"] else ""
        details = f"{source['format']}{checksum}, license {license_of(source)}"
        lines.append(f"Training started from {source['file']} ({details}).")
    if origin.sources:
        lines.append("The terms of what training started from hold too.")
        lines += [f"{origin.terms}."] if origin.terms else []
    return "\n".join(lines)
