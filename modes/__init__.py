"""What `python main.py --mode=NAME` does: a file for each mode, each with `run(args)`.

Here, and only here, the library, the data pipelines and the configurations meet.
"""

MODES = {
    "train": "train, or go on with the run in --workdir, then evaluate",
    "sweep": "train several rows with several seeds each, and compare their scores",
    "eval": "evaluate the newest checkpoint in --workdir, or --checkpoint",
    "submit": "write its predictions for the test split as a zip for the benchmark's server",
    "predict": "predict the images, folders, videos or patterns that are named, by --checkpoint",
    "report": "write a page about the run in --workdir, beside that in --compare",
    "export": "write the network of --checkpoint as programs that need nothing of this project",
    "prepare": "make a dataset of the downloads in --source, once",
    "audit": "check every label of both splits, and count its classes",
    "plan": "compile the steps for a --topology of chips that need not be here, and print what they"
    " cost, beside those of --compare",
    "describe": "print parameters and multiply-accumulates by stage",
    "tables": "print the counts of every network of the paper's tables, beside what it prints",
}

EXAMPLES = {
    "train": "python main.py --config=configs/camvid_w18s.py --config.data.root=data",
    "sweep": "python main.py --mode=sweep --config=configs/ablation.py --rows=t1-baseline,t1-gfm",
    "eval": "python main.py --mode=eval --workdir=runs/camvid_w18s --config.eval.flip=True",
    "submit": "python main.py --mode=submit --workdir=runs/cityscapes_w48",
    "predict": "python main.py --mode=predict --checkpoint=runs/quickstart photos/ film.mp4",
    "report": "python main.py --mode=report --workdir=runs/a --compare=runs/b",
    "export": "python main.py --mode=export --checkpoint=runs/quickstart --output=exported",
    "prepare": "python main.py --mode=prepare --config=configs/lip_w48.py --source=downloads",
    "audit": "python main.py --mode=audit --config=configs/camvid_w18s.py --config.data.root=data",
    "plan": "python main.py --mode=plan --config=configs/cityscapes_w18s.py --topology=v5e:2x2",
    "describe": "python main.py --mode=describe --config=configs/cityscapes_w48.py",
    "tables": "python main.py --mode=tables",
}
"""A command for each mode."""

FLAGS = {
    "fork_from": ("train",),
    "checkpoint": ("eval", "submit", "predict", "export"),
    "output": ("predict", "report", "export"),
    "save": ("predict",),
    "legend": ("predict",),
    "boxes": ("predict",),
    "long_side": ("predict", "export"),
    "compare": ("report", "plan"),
    "topology": ("plan",),
    "plan_json": ("plan", "train"),
    "formats": ("export",),
    "onnx_size": ("export",),
    "rows": ("sweep",),
    "seeds": ("sweep",),
    "reference": ("sweep",),
    "jobs": ("sweep",),
    "coordinator": ("train", "eval"),
    "processes": ("train", "eval"),
    "process": ("train", "eval"),
    "distributed": ("train", "eval"),
    "join_timeout": ("train", "eval"),
    "source": ("prepare",),
    "partial": ("prepare",),
}
"""The flags that only some modes read."""
