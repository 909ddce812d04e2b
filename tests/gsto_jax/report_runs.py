"""Writes folders of small runs, for tests of the report."""

import json

import numpy as np

from gsto_jax.classification import metrics as class_metrics
from gsto_jax.classification import results as class_folder
from gsto_jax.classification.png_writer import PNG_KINDS as CLASS_PNG_KINDS
from gsto_jax.drawing.heat_maps import feature_figures
from gsto_jax.drawing.tiles import write_image
from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.pose import results as pose_folder
from gsto_jax.pose.panels import heatmap_figure, pose_panel
from gsto_jax.pose.png_writer import PNG_KINDS
from gsto_jax.pose.results import PersonScore
from gsto_jax.pose.scores import COCO_SCORES
from gsto_jax.runs.workdir import Workdir
from gsto_jax.segmentation import results
from gsto_jax.segmentation.metrics import compute_scores, confusion_matrix_numpy
from gsto_jax.segmentation.png_writer import SegmentationPngWriter
from gsto_jax.segmentation.results import ImageScore

NASTY = '<b>&"'
CLASSES = ("road", NASTY, "sky", "car")
PALETTE = ((128, 64, 128), (250, 170, 30), (70, 130, 180), (0, 0, 142))
NAMES = ("town/a", NASTY, "c", "d", "e", "f")
SIZE = (30, 40)


def config(**data):
    return {
        "name": f"run {NASTY}",
        "seed": 3,
        "model": {
            "variant": "w18_small_v2",
            "hrnet": {"gfm": True, "gtm": ["none", "none", "supervised"]},
        },
        "loss": {"stage_weights": [0.2, 0.3, 0.5, 1.0]},
        "train": {"steps": 40, "epochs": 0},
        "eval": {"absent": "exclude"},
        "data": {
            "source": "folder",
            "root": f"/data/{NASTY}",
            "name": "",
            "train_split": "train",
            "eval_split": "val",
            "classes": list(CLASSES),
            "palette": [list(color) for color in PALETTE],
            "ignore_label": 255,
        }
        | data,
    }


def labels(index, names=NAMES):
    """Returns the labels of an image: stripes, some of them unlabeled."""
    rows = np.arange(SIZE[0])[:, None] // 6
    label = (rows + np.arange(SIZE[1]) // 8 + index) % 5
    return np.where(label == 4, 255, label).astype(np.uint8)


def predictions(index, seed):
    """Returns predictions with a fraction of errors that depends on seed and image."""
    rng = np.random.default_rng(100 * seed + index)
    truth = labels(index)
    wrong = rng.random(SIZE) < rng.uniform(0.05, 0.6)
    return np.where(wrong | (truth == 255), rng.integers(0, 4, SIZE), truth).astype(np.uint8)


def maps():
    features = {f"branch/{n}": np.arange(12.0).reshape(1, 3, 4) for n in range(4)}
    return features | {
        f"gate/stage4/module0/gate{n}_to{m}": np.full((1, 3, 4), 0.7)
        for n in (0, 1)
        for m in (0, 1)
    }


def evaluate(folder, seed=0, step=40, names=NAMES, panels=-1, figures=2, protocol="scale 1"):
    """Writes an evaluation to `folder`/eval-val and evaluations.jsonl; returns its scores."""
    run = Workdir(folder)
    place = folder / "eval-val"
    writer = SegmentationPngWriter(place, CLASSES, PALETTE, 255, panels, figures, names.__getitem__)
    confusion, images = np.zeros((4, 4), np.int64), []
    results.FOLDER.invalidate(place)
    for n, name in enumerate(names):
        truth, prediction = labels(n), predictions(n, seed)
        image = np.random.default_rng(n).integers(0, 255, (1, *SIZE, 3), np.uint8)
        batch = {"image": image, "label": truth[None], "size": np.array([SIZE])}
        batch |= {"index": np.array([n]), "mask": np.array([True])}
        drawn = writer.write(batch, prediction[None], maps)
        counts = confusion_matrix_numpy(truth, prediction, 4)
        own = compute_scores(counts)
        numbers = (int(counts.sum()), own.pixel_accuracy, own.mean_iou)
        images.append(ImageScore(name, *SIZE, *numbers, png_kinds=drawn[0]))
        confusion += counts
    result = compute_scores(confusion, boundary=np.array([[1, 2, 3]] * 4))
    record = {
        "step": step,
        "split": "val",
        "images": len(names),
        "protocol": protocol,
        "while_training": True,
        "mean_iou": result.mean_iou,
        "pixel_accuracy": result.pixel_accuracy,
        "mean_accuracy": result.mean_accuracy,
        "mean_boundary_iou": result.mean_boundary_iou,
        "seconds": 2.0,
    }
    results.write_evaluation(place, record, images, result, CLASSES)
    run.write_evaluation(record)
    run.close()  # writes buffered lines
    return result


def make_run(folder, seed=0, settings=None, evaluate=evaluate, **how):
    """Writes a run of 40 steps, evaluated at steps 20 and 40; returns its folder."""
    run = Workdir(folder)
    run.write_config(settings or config())
    run.write_start(["python", "main.py", f"--name={NASTY}"], 0, "abc")
    for step in (1, 10, 20, 30, 40):
        values = {"loss": 9 / step, "loss/stage3": 6 / step, "loss/stage4": 5 / step}
        values |= {"learning_rate": 0.01 * (41 - step), "gradient_norm": 3.0}
        run.write_training(step, values | {"steps_per_second": 2.0, "input_wait": 0.01})
    run.close()
    evaluate(folder, seed=seed + 7, step=20, **how)
    evaluate(folder, seed=seed, step=40, **how)
    return folder


JOINTS = ("head", NASTY, "left_foot", "right_foot")
PERSONS = ("town/a_0", "town/a_1", NASTY, "c_0", "d_0", "e_0")
BOXES = "ground-truth boxes"


def pose_config(**hrnet):
    settings = config(name="coco_keypoints", classes=[], palette=[]) | {"task": "pose"}
    hrnet = {"gfm": True, "head": "v2"} | hrnet
    settings["model"] = {"variant": "w18_small_v2", "hrnet": hrnet}
    settings["pose"] = {"visibility_threshold": 0.2}
    settings["data"]["keypoints"] = {"names": list(JOINTS), "sigmas": [0.05] * len(JOINTS)}
    return settings


def evaluate_poses(
    folder,
    seed=0,
    step=40,
    names=PERSONS,
    boxes=BOXES,
    labeled=True,
    panels=6,
    scores=COCO_SCORES,
    **figures,
):
    """Leaves an evaluation of poses in `folder`/eval-val and in the list of them."""
    place = folder / "eval-val"
    rng = np.random.default_rng(seed)
    persons = []
    for n, name in enumerate(names):
        kinds = PNG_KINDS if n < 1 else PNG_KINDS[:1] if n < panels else ()
        alike, score = rng.random(2).tolist()
        counts = (len(JOINTS), alike) if labeled else (0, float("nan"))
        persons.append(PersonScore(name, n // 2, *counts, score, 0.5, png_kinds=kinds))
        images = dict(_pose_images(n, labeled))
        for kind, path in sample_pngs(place, persons[-1]).items():
            write_image(path, images[kind])
    values = dict(zip(scores.descriptions, rng.random(len(scores.descriptions)), strict=True))
    record = {
        "step": step,
        "split": "val",
        "images": 3,
        "persons": len(names),
        "boxes": boxes,
        "protocol": f"{boxes} + flip",
        "while_training": True,
        **values,
        list(values)[3]: float("nan"),
        f"ceiling_{scores.main}": 0.987,
        "seconds": 2.0,
    } | figures
    pose_folder.write_evaluation(place, record, persons, [])
    Workdir(folder).write_evaluation(record)


def _pose_images(n, labeled):
    """The PNGs of a person, by kind."""
    image = np.random.default_rng(n).integers(0, 255, (32, 24, 3), np.uint8)
    pose = np.array([[5.0, 5, 1], [20, 5, 1], [5, 25, 1], [20, 25, 0.1]])
    heatmaps = np.linspace(0, 1, 8 * 6 * 4, dtype=np.float32).reshape(8, 6, 4)
    bones = [(0, 1), (1, 2), (1, 3)]
    yield "sample", pose_panel(image, pose if labeled else None, pose, heatmaps, bones)
    yield "heatmaps", heatmap_figure(image, heatmaps, JOINTS)
    yield from feature_figures(image, {name: values[0] for name, values in maps().items()})


def make_pose_run(folder, seed=0, settings=None, **how):
    """Makes a pose run; see `make_run`."""
    return make_run(folder, seed, settings or pose_config(), evaluate_poses, **how)


def class_config(**hrnet):
    settings = config(name="imagenet", classes=[*CLASSES, "bus"], palette=[])
    hrnet = {"gfm": True, "head": "cls"} | hrnet
    return settings | {
        "task": "classification",
        "model": {"variant": "w18_small_v2", "hrnet": hrnet},
    }


def evaluate_classes(folder, seed=0, step=40, names=NAMES, panels=6, **figures):
    """Writes an evaluation of classes to `folder`/eval-val and evaluations.jsonl."""
    place, rng, images = folder / "eval-val", np.random.default_rng(seed), []
    class_names = [*CLASSES, "bus"]
    for n, name in enumerate(names):
        kinds = CLASS_PNG_KINDS if n < 1 else CLASS_PNG_KINDS[:1] if n < panels else ()
        probabilities = rng.dirichlet(1 + 2 * np.eye(5)[n % 4])
        label, predicted = n % 4, int(probabilities.argmax())  # no image is a bus
        values = (float(probabilities[label]), float(probabilities[predicted]))
        rank = int((probabilities >= probabilities[label]).sum()) - 1
        score = class_folder.ImageScore(name, label, predicted, rank, *values, png_kinds=kinds)
        images.append(score)
        pixels = np.random.default_rng(n).integers(0, 255, (32, 32, 3), np.uint8)
        figures_of = dict(feature_figures(pixels, {key: x[0] for key, x in maps().items()}))
        for kind, path in sample_pngs(place, score).items():
            write_image(path, ({"sample": pixels} | figures_of)[kind])
    ranks, labels_ = np.array([x.rank for x in images]), np.array([x.label for x in images])
    counts, by_class = class_metrics.class_accuracies(labels_, ranks, 5)
    classes = [
        class_folder.ClassScore(name, int(counts[k]), by_class["top1"][k], by_class["top5"][k])
        for k, name in enumerate(class_names)
    ]
    record = {
        "step": step,
        "split": "val",
        "images": len(names),
        "protocol": "center 0.875",
        "while_training": True,
        **class_metrics.accuracies(ranks),
        "seconds": 2.0,
    } | figures
    class_folder.write_evaluation(place, record, images, classes)
    Workdir(folder).write_evaluation(record)


def make_class_run(folder, seed=0, settings=None, **how):
    """Makes a classification run; see `make_run`."""
    return make_run(folder, seed, settings or class_config(), evaluate_classes, **how)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
