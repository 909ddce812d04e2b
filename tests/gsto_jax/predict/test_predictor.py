"""Predictors from checkpoints, their inputs and their output files."""

import csv
from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest
from PIL import Image

from gsto_jax import UserError
from gsto_jax.image_files import DecodeOptions
from gsto_jax.ops.resample import resample
from gsto_jax.ops.taps import linear_taps
from gsto_jax.predict.files import PredictionWriter, write_classes
from gsto_jax.predict.inputs import find_inputs
from gsto_jax.predict.outputs import SEGMENTATION_OUTPUTS
from gsto_jax.predict.prediction import Prediction
from gsto_jax.predict.segmentation import Predictor
from gsto_jax.runs.checkpoint import Checkpoints
from gsto_jax.runs.tasks import task_from_config
from gsto_jax.segmentation.evaluate import evaluate
from gsto_jax.segmentation.protocol import protocol_from_config
from gsto_jax.segmentation.task import score_step
from gsto_jax.training.task import initial_state
from tests.gsto_jax.saved_runs import MESH, SIZE, config, save
from tests.gsto_jax.small_network import image_of
from tests.gsto_jax.small_task import GATED
from tests.image_bytes import RGBA, chunk, exif, png


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *save(folder, config(model=GATED))


class OneImage:
    sizes = {(96, 128): {SIZE}}  # noqa: RUF012

    def __iter__(self):
        yield {
            "image": np.pad(image_of(SIZE), ((0, 26), (0, 27), (0, 0)))[None],
            "label": np.zeros((1, 96, 128), np.uint8),
            "size": np.array([SIZE], np.int32),
            "index": np.zeros(1, np.int32),
            "mask": np.ones(1, bool),
        }


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        (GATED, {}),
        pytest.param({}, {"scales": (0.5, 1.0), "flip": True}, marks=pytest.mark.slow),
        pytest.param(
            {},
            {"window": "slide", "crop": (64, 64), "flip": False, "scales": (1.0,)},
            marks=pytest.mark.long,
        ),
    ],
)
def test_predictor_equals_evaluation(tmp_path, network, settings):
    plain = config(model=network, eval=settings)
    task, variables = save(tmp_path, plain)
    expected = []
    evaluate(
        task,
        variables,
        OneImage(),
        MESH,
        protocol_from_config(plain),
        on_batch=lambda b, predictions, maps: expected.append(predictions[0, : SIZE[0], : SIZE[1]]),
    )
    result = Predictor.load(tmp_path)(image_of(SIZE))
    assert len(np.unique(result.labels)) > 1, "it has something to get wrong"
    assert result.labels.dtype == np.uint8
    np.testing.assert_array_equal(result.labels, expected[0])


@pytest.mark.slow
def test_checkpoint_paths(run, tmp_path):
    folder, _, _ = run
    for path in (folder, folder / "checkpoints", folder / "checkpoints" / "0"):
        assert Predictor.load(path).checkpoint == folder / "checkpoints" / "0"
    for path, message in (
        (tmp_path, "contains no checkpoint"),
        (tmp_path / "nope", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            Predictor.load(path)
    (tmp_path / "checkpoints" / "7" / "state").mkdir(parents=True)
    with pytest.raises(UserError, match="is damaged"):
        Predictor.load(tmp_path)


def test_decode_options_of_the_run(run, tmp_path):
    """Files are decoded as in training; arrays only by alpha and bit depth."""
    predictor = Predictor.load(run[0])
    assert predictor.decode_options == DecodeOptions()
    deep = np.dstack([image_of(SIZE).astype(np.uint16) << 4, np.zeros(SIZE, np.uint16)])
    deep[:, 50:, 3] = 65535
    (tmp_path / "x.png").write_bytes(png(deep, RGBA, 16, before=chunk(b"eXIf", exif(3))))
    settings = {"alpha": "black", "orientation": "stored", "bit_depth": 12}
    changed = {**predictor.config, "data": predictor.config["data"] | settings}
    other = replace(predictor, trained=replace(predictor.trained, config=changed))
    expected = image_of(SIZE) * (deep[..., 3:] > 0)
    for image in (tmp_path / "x.png", deep):
        np.testing.assert_array_equal(other(image).image, expected)
    assert other.decode_options == DecodeOptions(**settings)
    default = predictor(tmp_path / "x.png").image
    assert (default[:, -50:] == 255).all()
    np.testing.assert_array_equal(default[::-1, ::-1][:, 50:], image_of(SIZE)[:, 50:] >> 4)


@pytest.mark.slow
def test_checkpoints_with_missing_options(tmp_path):
    plain = config()
    del plain["eval"]["score"]
    save(tmp_path, config())
    task = task_from_config(config())
    with Checkpoints(tmp_path / "old" / "checkpoints") as checkpoints:
        checkpoints.save(initial_state(task, MESH), {"config": plain, "data": None})
    with pytest.raises(UserError, match=r"config\.eval\.score is missing"):
        Predictor.load(tmp_path / "old")
    plain = config()
    del plain["data"]["mean"]
    with Checkpoints(tmp_path / "older" / "checkpoints") as checkpoints:
        checkpoints.save(initial_state(task, MESH), {"config": plain, "data": None})
    with pytest.raises(UserError, match=r"lacks the config option 'mean'"):
        Predictor.load(tmp_path / "older")


def test_large_images_are_downscaled(run):
    folder, task, variables = run
    large = image_of((140, 202))
    predictor = Predictor.load(folder, long_side=101)
    result = predictor(large)
    assert result.labels.shape == (140, 202)

    small = cv2.resize(large.astype(np.float32), SIZE[::-1], interpolation=cv2.INTER_AREA)
    padded = np.pad(small, ((0, 26), (0, 27), (0, 0)), "edge")
    batch = {"image": padded[None], "size": np.array([(96, 128)], np.int32)}
    scores, _ = jax.jit(score_step, static_argnums=0)(task, variables, batch)
    scores = scores[:, : SIZE[0], : SIZE[1]]
    taps = [linear_taps(a, b) for a, b in zip(SIZE, (140, 202), strict=True)]
    taps = jax.tree.map(lambda x: x[None], taps)
    expected = resample(scores, *taps)[0].argmax(-1)
    assert (result.labels != expected).mean() < 1e-3
    assert Predictor.load(folder).long_side == 2 * max(predictor.config["data"]["crop"])


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (GATED, {"branch/0": (9, 13), "gate/context/bin6": (9, 13)}),
        pytest.param(
            {}, {"branch/0": (18, 26), "gate/transition2": (9, 13)}, marks=pytest.mark.slow
        ),
    ],
)
def test_features_and_figures(tmp_path, network, shapes):
    save(tmp_path, config(model=network))
    predictor = Predictor.load(tmp_path)
    assert predictor(image_of(SIZE)).features == {}
    result = predictor(image_of(SIZE), with_features=True)
    assert shapes.items() <= {name: x.shape for name, x in result.features.items()}.items()
    color = np.array(predictor.palette)[result.labels]
    np.testing.assert_array_equal(result.colors(), color)
    np.testing.assert_allclose(result.overlay(), (image_of(SIZE) + color) / 2, atol=0.51)

    path = tmp_path / "x.png"
    Image.fromarray(image_of(SIZE)).save(path)
    np.testing.assert_array_equal(predictor(path).labels, result.labels)
    with pytest.raises(UserError, match="an image must have shape"):
        predictor(np.zeros((3, 4, 5), np.uint8))


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_inputs(tmp_path):
    make_files(tmp_path, "a/1.jpg", "a/1.PNG", "a/b/1.jpg", "a/.hidden/1.jpg", "a/notes.txt")
    make_files(tmp_path, "a/film.mp4", "a/out/overlay/1.jpg", "odd.dat")
    (tmp_path / "a/link.jpg").symlink_to(tmp_path / "odd.dat")
    out = tmp_path / "a" / "out"

    def names(*arguments):
        result = find_inputs([str(tmp_path / argument) for argument in arguments], out)
        return [(str(entry.path.relative_to(tmp_path)), entry.name) for entry in result]

    all_of_a = [
        ("a/1.PNG", "1"),
        ("a/1.jpg", "1_jpg"),
        ("a/b/1.jpg", "b/1"),
        ("a/film.mp4", "film"),
        ("a/link.jpg", "link"),
    ]
    assert names("a") == all_of_a
    assert names("a/1.PNG", "a", "a/film.mp4") == all_of_a, "each once"
    assert names("a/**/1.*") == [("a/1.PNG", "1"), ("a/1.jpg", "1_jpg"), ("a/b/1.jpg", "b/1")]
    make_files(tmp_path, "a/.DS_Store", "a/._1.jpg", "a/__MACOSX/1.jpg", "disk/far.jpg", "a/x.heic")
    (tmp_path / "a/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "a")
    left_out = []
    linked = find_inputs([str(tmp_path / "a")], out, left_out.append)
    assert [entry.name for entry in linked] == [*(name for _, name in all_of_a), "linked/far"]
    assert [path.name for path in left_out] == ["x.heic"]
    for path in (tmp_path / "a/linked", tmp_path / "disk/back", tmp_path / "a/x.heic"):
        path.unlink()
    assert names("odd.dat") == [("odd.dat", "odd")], "named, so tried"
    videos = [entry.is_video for entry in find_inputs([str(tmp_path / "a")], out)]
    assert videos == [False, False, False, True, False]
    beside = find_inputs([str(tmp_path / "a/1.jpg")], tmp_path / "a")
    assert [entry.name for entry in beside] == ["1"], "the output may lie where the images are"
    for argument, message in (
        ("nope.jpg", "no such file or folder"),
        ("*.bmp", "matches no image"),
        ("a/.hidden/../out", "matches no image"),
    ):
        with pytest.raises(UserError, match=message):
            names(argument)
    for arguments, message in (([], "no input"), ([""], "must not be empty")):
        with pytest.raises(UserError, match=message):
            find_inputs(arguments, out)


def test_looping_symlinks_end(tmp_path):
    """Each folder is searched once by its real path, in folders and in patterns."""
    make_files(tmp_path, *(f"a/{n}/{n}.jpg" for n in range(9)))
    for n in range(9):
        for m in range(9):
            (tmp_path / f"a/{n}/to{m}").symlink_to(tmp_path / f"a/{m}")
        (tmp_path / f"a/{n}/up").symlink_to(tmp_path)
    (tmp_path / "a/itself.jpg").symlink_to(tmp_path / "a/itself.jpg")
    for argument in ("a", "a/**", "a/**/*.jpg", "**/[0-8].jpg", "a/0/up/**/up/**"):
        entries = find_inputs([str(tmp_path / argument)], tmp_path / "out")
        images = sorted(entry.path.name for entry in entries if entry.path.name != "itself.jpg")
        assert images == [f"{n}.jpg" for n in range(9)], argument


def prediction(labels):
    maps = {"branch/0": np.eye(4, dtype=np.float32), "gate/transition2": np.eye(4)}
    image = np.full((*labels.shape, 3), 100, np.uint8)
    measures = {
        "probabilities": np.zeros((*labels.shape, 2), np.float16),
        "confidence": np.ones(labels.shape, np.float32),
        "entropy": np.zeros(labels.shape, np.float32),
    }
    palette = ((255, 0, 0), (0, 0, 255))
    return Prediction(image, labels, maps, ("sky", 'a "b", c'), palette, **measures)


def test_prediction_writer(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (21, 33)).astype(np.uint8)
    entry = prediction(labels)
    writer = PredictionWriter(tmp_path, SEGMENTATION_OUTPUTS, SEGMENTATION_OUTPUTS)
    write_classes(tmp_path, entry.classes, entry.palette)
    writer.write("deep/x", entry)
    ids = cv2.imread(str(tmp_path / "ids/deep/x.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(ids, labels)
    assert ids.ndim == 2
    color = cv2.imread(str(tmp_path / "color/deep/x.png"))[..., ::-1]
    np.testing.assert_array_equal(color, entry.colors())
    overlay = cv2.imread(str(tmp_path / "overlay/deep/x.jpg"))
    assert overlay.shape == (21, 33, 3)
    for kind in ("branches", "gates"):
        assert cv2.imread(str(tmp_path / kind / "deep/x.png")).shape[1] > 600
    with (tmp_path / "classes.csv").open() as file:
        lines = list(csv.reader(file))
    assert lines[1:] == [["0", "sky", "255", "0", "0"], ["1", 'a "b", c', "0", "0", "255"]]

    def frames(fails):
        yield entry
        yield prediction(1 - labels)
        if fails:
            raise UserError("cut off")
        yield entry

    for name in ("film", "other"):
        writer.write_video(name, 10, iter([entry]))
    writer.write_video("film", 10, iter([entry, prediction(1 - labels)]))
    for name in ("film", "new"):
        with pytest.raises(UserError, match="cut off"):
            writer.write_video(name, 10, frames(fails=True))
    assert not list(tmp_path.rglob("new*")), "nothing of a film that failed"
    film = cv2.VideoCapture(str(tmp_path / "color/film.mp4"))
    assert (film.get(cv2.CAP_PROP_FRAME_COUNT), film.get(cv2.CAP_PROP_FPS)) == (2, 10)
    assert film.read()[1].shape == (22, 34, 3), "even sides"
    second = cv2.imread(str(tmp_path / "ids/film.mp4/000001.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(second, 1 - labels)
    assert len(list((tmp_path / "ids/film.mp4").iterdir())) == 2
    assert len(list((tmp_path / "ids/other.mp4").iterdir())) == 1
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]
    with pytest.raises(OSError, match="cannot write"):
        writer.write_video("slow", -1, iter([entry]))
    assert not list(tmp_path.rglob("slow*"))
    with pytest.raises(UserError, match="predictions of other classes"):
        write_classes(tmp_path, ("a", "b"), entry.palette)
    with pytest.raises(UserError, match=r"save must be some of .*; got ids, masks"):
        PredictionWriter(tmp_path, ["ids", "masks"], SEGMENTATION_OUTPUTS)
    with pytest.raises(UserError, match="cannot write"):
        PredictionWriter(tmp_path / "classes.csv" / "x", ["ids"], SEGMENTATION_OUTPUTS)
