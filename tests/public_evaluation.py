"""The public evaluation of Cityscapes, from the folder that `make test` puts it in."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


def cityscapes(monkeypatch, pairs):
    """Scores of label id PNGs, as `cityscapesScripts` computes them.

    Args:
      monkeypatch: pytest fixture; undoes the changes.
      pairs: (prediction, truth) paths; instance ids lie beside the truth.

    Returns:
      Its result: "classScores", "classInstScores", "categoryScores" and so on, by name.
    """
    folder = Path(sys.prefix) / "evaluation"
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing: make test installs requirements-evaluation.txt there")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # gone from NumPy 2.4
    monkeypatch.setenv("CITYSCAPES_DATASET", "/")
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as public

    public.args.quiet, public.args.JSONOutput = True, False
    captured = SimpleNamespace(result=None)
    monkeypatch.setattr(
        public, "createResultDict", lambda *args: vars(captured).update(result=args) or {}
    )
    predictions, truths = zip(*pairs, strict=True)
    public.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], public.args)
    confusion, classes, instances, categories, category_instances = captured.result[:5]
    return {
        "confusion": confusion,
        "classes": classes,
        "instances": instances,
        "categories": categories,
        "category_instances": category_instances,
    }
