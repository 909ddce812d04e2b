"""The command line: errors that a user can fix give one message and status 2."""

import json
import os
import re
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import CITYSCAPES
from gsto_jax.evaluation.folder import sample_pngs
from gsto_jax.segmentation import results
from tests.data_pipelines import downloads_trees
from tests.gsto_jax import saved_runs
from tests.program import refused, run


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.train.stepz=3"], r"config\.train\.stepz: .*config\.train\.steps\?"),
        (["--config.nonsense=3"], r"config\.nonsense: .* config\."),
        (["--config=configs/quickstart.py:basline"], "baseline, batch=.*':basline'"),
        (["--config.train.steps=abc"], "--config.train.steps=abc"),
        (["--mode=evil"], r"predict, .*report, .*tables; got 'evil'"),
        (["evak"], r"--mode .*'evak'.* eval\?"),
        (["--seeds=3", "eval"], "'eval' .*first"),
        (["--config=configs/ablation.py:row=t9"], "row= .*t1-baseline, .*'t9'"),
        (["--wrkdir=x"], "wrkdir"),
        (["stray"], "'stray'"),
        (["--config.model.variant=w19"], "variant.*'w19'"),
        (["--config.data.num_scales=0"], "num_scales .*0"),
        (["--mode=eval"], "--workdir"),
        (["--mode=report"], "--workdir"),
        (["--mode=export"], "--checkpoint"),
        (["--mode=export", "--checkpoint=x", "--formats=onnx-int8"], "--calibration"),
        (["--rows=as-is"], "--rows .*--mode=sweep, .*train"),
        (["--mode=sweep", "--rows=as-is", "--seeds=0"], "--seeds .*'0'"),
        (["--mode=sweep", "--rows=as-is", "--reference=x"], "--reference .*'x'"),
        (["--checkpoint=runs"], "--checkpoint .*--mode=eval "),
        (["--mode=eval", "--save=ids"], "--save .*--mode=predict, .*eval"),
        (["--config=configs/camvid_w18s.py"], r"config\.data\.root .*--config\.data\.root=FOLDER"),
        (["--config=configs/camvid_w18s.py", "--config.data.root=/nope"], "/nope"),
        (["--config=configs/nope.py"], r"configs/nope\.py"),
        (["--config=cityscapes_w49:ms"], r" cityscapes_w48:ms\?"),
        (["--config=nope"], "cityscapes_w48, .*quickstart.* 'nope'"),
        (
            ["--mode=predict", "--config=configs/lip_w48.py:ms", "--checkpoint=x", "x.jpg"],
            "--config .*--mode=predict: .*checkpoint",
        ),
        (
            ["--mode=export", "--checkpoint=x", "--config.eval.pad_to=published"],
            r"--config\.eval\.pad_to=published .*--mode=export",
        ),
        (
            ["--mode=report", "--workdir=x", "--noconfig.eval.flip"],
            r"config\.eval\.flip.* --mode=report",
        ),
        (["--config=README.md"], r"Python file.*'README\.md'"),
        (["--config=camvid_w18"], r"camvid_w18: .* camvid_w18s\?"),
        (["--config=lip_w48s.py:ms"], r"lip_w48s\.py: .* lip_w48:ms\?"),
        (["--mode=plan", "--compare=README.md"], r"--compare=README\.md"),
        (["--mode=sweep", "--rows=camvid_w18s"], r"config\.data\.root"),
        (["--mode=sweep", "--rows=camvid_w18"], r"--rows: camvid_w18: .* camvid_w18s\?"),
        (["--config.qqq=3"], r"config\.qqq: "),
        (["--workdir=/proc/nope"], "/proc/nope"),
        (["--workdir=README.md"], r"--workdir .*folder.*README\.md"),
        (["--config.seed=-1"], r"config\.seed .*-1"),
        (["--config.loss.class_weights=True"], r"class_weights .*\b9\b.*\b0\b"),
        (["--fork_from=/nope"], "/nope does not exist"),
    ],
)
def test_bad_commands(args, message):
    assert re.search(message, refused(*args))


def test_no_configuration_is_needed_in_another_folder(tmp_path):
    assert "--workdir" in refused("--mode=report", cwd=tmp_path)
    assert "config.data.root" in refused("--config=configs/camvid_w18s.py", cwd=tmp_path)


def test_batches_that_do_not_divide():
    message = refused("--config.train.batch_size=8", devices=3)
    assert re.search(r"config\.train\.batch_size .*\b3\b.* devices.*\b8\b", message)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config=configs/lip_w48.py"], "--source"),
        (["--config=configs/lip_w48.py", "--source=/nope"], "folder /nope"),
        (["--source=/nope"], "quickstart .*lip"),
        (["--config=configs/lip_w48.py", "--source=tests"], r"TrainVal_images\.zip"),
    ],
)
def test_preparing_missing_downloads(tmp_path, args, message):
    assert re.search(message, refused("--mode=prepare", *args, f"--config.data.root={tmp_path}"))


def test_data_that_was_not_prepared(tmp_path):
    message = refused("--config=configs/lip_w48.py", f"--config.data.root={tmp_path}")
    assert re.search(f"{tmp_path / 'lip'}. .*--mode=prepare", message)


@pytest.mark.parametrize(
    ("config", "figures"),
    [
        pytest.param(
            "cityscapes_w48.py",
            "65930442 66017124 766561886208 65.93M 713.9 714.0",
            marks=pytest.mark.slow,
        ),
        ("cityscapes_w18s.py:baseline", "3923091 3939579 76856885248 3.92M 71.6"),
        (
            "coco_pose_w32.py:baseline",
            "17 384x288 28481777 28536113 17201258496 28.5M 16.0",
        ),
    ],
)
def test_describe_prints_exact_counts(config, figures):
    result = run("--mode=describe", f"--config=configs/{config}")
    assert result.returncode == 0, result.stderr
    assert [x for x in figures.split() if x not in result.stdout] == []


@pytest.mark.long
def test_tables_of_the_paper():
    result = run("--mode=tables")
    assert result.returncode == 0, result.stderr
    numbers = re.findall(r"^Table (\d+):", result.stdout, re.M)
    assert numbers == [str(number) for number in range(1, 12)]
    assert len(re.findall(r" miss ", result.stdout)) == 4
    assert len(re.findall(r" match ", result.stdout)) == 16
    assert result.stdout.count("not trained here") == 11
    for figure in ("3941147", "65930442", "766561886208", "63516161", "1494946807808", "82.4"):
        assert f" {figure} " in result.stdout
    assert " cityscapes_w48:baseline,trainval,ohem,ms " in result.stdout


def test_configuration_that_fails(tmp_path):
    for text, message in (
        ("import nonsense_module", "'nonsense_module'"),
        (
            "from configs import base\n\ndef get_config():\n"
            "    config = base.get_config()\n    config.train.stepz = 3\n    return config\n",
            r"odd\.py, line 5: .*config\.train\.stepz: .*config\.train\.steps\?",
        ),
    ):
        path = tmp_path / "odd.py"
        path.write_text(text)
        assert re.search(message, refused(f"--config={path}"))


@pytest.mark.slow
@pytest.mark.parametrize("word", ["", pytest.param("baseline,", marks=pytest.mark.long)])
def test_train_evaluate_and_evaluate_again(tmp_path, word):
    workdir = tmp_path / "run"
    args = [f"--config=configs/quickstart.py:{word}runlocal", f"--workdir={workdir}"]
    more = ["--config.run.trackers=tensorboard", "--config.run.eval_every=2"]
    more.append("--config.eval.batch_size=1")  # rounded up
    result = run(*args, *more, devices=2)
    assert result.returncode == 0, result.stderr
    assert "labels of train: 8 of 8 checked, 9 of 9 classes, 0.0% ignored" in result.stdout
    assert "4 steps of 2 from 8 images, learning rate 0.1, on 2 x cpu" in result.stdout
    assert "step 4/4" in result.stdout
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert f"{workdir}/checkpoints/4" in result.stdout
    images = sorted(path.name for path in (workdir / "eval-val").glob("*.png"))
    assert len(images) == 4 + (2 if word else 2 * 2), "the plain network has no gates"
    assert cv2.imread(str(workdir / "eval-val" / "val_000003.png")).shape[1] == 4 * 256 + 12
    first = (workdir / "eval-val" / "scores.csv").read_text()
    check_images(workdir / "eval-val")
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 4
    (start,) = map(json.loads, (workdir / "starts.jsonl").read_text().splitlines())
    assert start["command"][-5:] == args + more
    assert start["devices"] == "2 x cpu"
    evaluations = [json.loads(x) for x in (workdir / "evaluations.jsonl").read_text().splitlines()]
    assert [e["step"] for e in evaluations] == [2, 4]
    best = max(evaluations, key=lambda e: e["mean_iou"])["step"]
    assert [path.name for path in (workdir / "best").iterdir()] == [str(best)]
    check_events(workdir / "tensorboard", evaluations, gated=not word)

    again = run("--mode=eval", *args)
    assert again.returncode == 0, again.stderr
    assert re.search(r"mean IoU [\d.]+", again.stdout)[0] in result.stdout
    np.testing.assert_allclose(
        *(
            [float(line.split(",")[1] or "nan") for line in text.splitlines()[1:]]
            for text in (first, (workdir / "eval-val" / "scores.csv").read_text())
        ),
        atol=1e-4,
    )

    if not word:
        other = refused("--mode=eval", "--config=configs/quickstart.py:baseline", *args[1:])
        assert "another network: model.hrnet.gfm (model): True in the run, False now" in other


@pytest.mark.slow
def test_predict(tmp_path):
    """Predicts a folder with two images, a damaged image and a video."""
    workdir, photos, output = tmp_path / "run", tmp_path / "photos", tmp_path / "out"
    saved_runs.save(workdir, saved_runs.config())
    photos.mkdir()
    image = np.random.default_rng(0).integers(0, 255, (75, 101, 3), np.uint8)
    cv2.imwrite(str(photos / "photo.png"), image)
    cv2.imwrite(str(photos / "gray.jpg"), image[..., 0])
    (photos / "broken.png").write_bytes((photos / "photo.png").read_bytes()[:200])
    film = cv2.VideoWriter(str(photos / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 48))
    for _ in range(2):
        film.write(image[:48, :64])
    film.release()
    predict = ["--mode=predict", f"--checkpoint={workdir}", f"--output={output}"]
    predicted = run(*predict, str(photos), "--save=overlay,ids,gates")
    assert predicted.returncode == 1, predicted.stdout + predicted.stderr
    assert "3 of 4 predicted: overlay, ids, gates" in predicted.stdout
    assert predicted.stderr.startswith(f"error: cannot read {photos}/broken.png: it is truncated")
    assert len(predicted.stderr.splitlines()) == 1
    result = [path.relative_to(output) for path in output.rglob("*.*")]
    written = {path.as_posix() for path in result if len(path.parts) < 3}
    assert written == {
        "classes.csv",
        *(f"overlay/{name}" for name in ("photo.jpg", "gray.jpg", "film.mp4")),
        *(f"ids/{name}" for name in ("photo.png", "gray.png", "film.mp4")),
        *(f"gates/{name}" for name in ("photo.png", "gray.png", "film.mp4")),
    }
    ids = cv2.imread(str(output / "ids" / "photo.png"), cv2.IMREAD_UNCHANGED)
    assert ids.shape == (75, 101)
    assert sorted(path.name for path in (output / "ids/film.mp4").iterdir()) == [
        "000000.png",
        "000001.png",
    ]
    again = run(*predict, str(photos / "photo.png"), "--save=ids")
    assert (again.returncode, again.stderr) == (0, "")
    np.testing.assert_array_equal(ids, cv2.imread(str(output / "ids/photo.png"), -1))
    mirrored = run(*predict, str(photos / "photo.png"), "--save=ids", "--config.eval.flip=True")
    assert (mirrored.returncode, mirrored.stderr) == (0, "")
    refusal = refused(*predict, str(photos), "--config.model.hrnet.gfm=False")
    assert "--config.model.hrnet.gfm is fixed by the checkpoint" in refusal
    assert "needs --checkpoint" in refused("--mode=predict", str(photos))
    assert "no such file or folder: nope.jpg" in refused(*predict, "nope.jpg")


@pytest.mark.slow
def test_export_report_and_the_best_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    args = ["--config=configs/quickstart.py:runlocal", "--config.model.variant=resnet_mini"]
    trained = run(*args, f"--workdir={workdir}", "--config.train.steps=1")
    assert trained.returncode == 0, trained.stderr
    checkpoint = f"--checkpoint={workdir}"
    # From another folder, where no configuration lies.
    elsewhere = {"cwd": tmp_path}
    exported = run("--mode=export", checkpoint, "--output=x", "--formats=jax,hub", **elsewhere)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.count("100.0000% of labels equal") == 3
    names = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert names == ["hub", "model.jax", "model.json"]
    assert "mean_iou" in (tmp_path / "x/hub/README.md").read_text()
    page = run("--mode=report", f"--workdir={workdir}", **elsewhere)
    assert page.returncode == 0, page.stderr
    assert page.stdout.endswith(f"report      {workdir}/report.html\n")
    assert "quickstart-runlocal" in (workdir / "report.html").read_text()
    best = run("--mode=eval", f"--checkpoint={workdir / 'best'}", **elsewhere)
    assert best.returncode == 0, best.stderr
    assert "quickstart-runlocal, step 1, on val" in best.stdout, "the settings are the run's"
    assert f"checkpoint  {workdir}/best/1" in best.stdout


def check_images(folder):
    """The scores by image of the run above add up to those of the set."""
    result = results.read_evaluation(folder)
    right = sum(x.labeled_pixels * x.pixel_accuracy for x in result.images)
    assert right == pytest.approx(np.trace(result.confusion), abs=0.5)
    assert sum(x.labeled_pixels for x in result.images) == result.confusion.sum()
    assert result.record["pixel_accuracy"] == pytest.approx(
        right / result.confusion.sum(), abs=1e-5
    )
    assert [(x.name, x.height, x.width) for x in result.images][3] == ("val_000003", 128, 256)
    drawn = {path for x in result.images for path in sample_pngs(folder, x).values()}
    assert drawn == set(folder.glob("*.png"))


def check_events(folder, evaluations, gated):
    """Checks the TensorBoard events of the run above."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    result = events.Tags()["tensors"]
    scalars = {"loss", "loss/stage4", "learning_rate"}
    scalars |= {"loss/stage2", "loss/stage3"} if gated else set()
    scalars |= {"gradient_norm", "steps_per_second", "input_wait", "step_seconds/device"}
    scalars |= {"examples_per_second_per_chip", "tflops_per_second_per_chip"}
    assert scalars <= set(result)
    assert [e.step for e in events.Tensors("loss")] == [1, 2, 3, 4]
    assert {"val/iou/road", "val/iou/person", "val/pixel_accuracy"} <= set(result)
    means = {e.step: float(make_ndarray(e.tensor_proto)) for e in events.Tensors("val/mean_iou")}
    assert means == {e["step"]: pytest.approx(e["mean_iou"]) for e in evaluations}
    for kind in ("sample", "branches", *(["gates"] if gated else [])):
        image = events.Tensors(f"val/{kind}/0")[-1].tensor_proto.string_val[2]
        assert cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape[1] > 600


@pytest.mark.slow
def test_from_the_downloads_to_a_trained_network(tmp_path):
    downloads = downloads_trees.write_zips(
        tmp_path / "downloads", downloads_trees.cityscapes_files(size=(64, 128))
    )
    args = ["--config=configs/cityscapes_w18s.py:trainval,runlocal"]
    args.append(f"--config.data.root={tmp_path / 'sets'}")
    prepared = run("--mode=prepare", *args, f"--source={downloads}", "--partial")
    assert prepared.returncode == 0, prepared.stderr
    assert f"dataset  {tmp_path}/sets/cityscapes/1.0.0" in prepared.stdout
    assert "test has 2 of 1525" in refused("--mode=prepare", *args, f"--source={downloads}")
    audited = run("--mode=audit", *args)
    assert audited.returncode == 0, audited.stderr
    assert "trainval: 8 labels, 0 problems" in audited.stdout
    small = ["--config.model.variant=resnet_mini", "--config.data.workers=1"]
    small.append(f"--workdir={tmp_path}/run")
    result = run(*args, *small, "--config.eval.scales=(0.5,1.0)", "--config.eval.flip=True")
    assert result.returncode == 0, result.stderr
    assert "4 steps of 2 from 8 images" in result.stdout
    assert result.stdout.count("the published scores start from ImageNet") == 1
    assert "3 images, scales 0.5 1 + flip + slide_upsampled 128x128 by 1" in result.stdout
    assert re.search(r"mean of categories │ +\d", result.stdout), "the prepared set has instances"
    sent = run("--mode=submit", *args, *small)
    assert sent.returncode == 0, sent.stderr
    archive = tmp_path / "run" / "submission-test.zip"
    assert f"submission  {archive}" in sent.stdout
    with zipfile.ZipFile(archive) as images:
        assert images.namelist() == [f"ulm_00000{n}_000019_pred.png" for n in (0, 1)]
        ids = np.frombuffer(images.read("ulm_000001_000019_pred.png"), np.uint8)
    ids = cv2.imdecode(ids, cv2.IMREAD_UNCHANGED)
    assert ids.shape == (64, 128)
    known = {raw for raw, train in CITYSCAPES.id_map if train != 255}
    assert set(np.unique(ids).tolist()) <= known


@pytest.mark.slow
@pytest.mark.skipif("GSTO_DATA" not in os.environ, reason="set GSTO_DATA to a folder with camvid/")
def test_camvid_runs(tmp_path):
    root = Path(os.environ["GSTO_DATA"]) / "camvid"
    result = run(
        "--config=configs/camvid_w18s.py:runlocal",
        f"--config.data.root={root}",
        f"--workdir={tmp_path / 'run'}",
        "--config.model.variant=resnet_mini",
        "--config.eval.sample_images=3",
        "--config.eval.feature_images=0",
        "--config.data.train_size=0",
        "--config.data.eval_size=0",
    )
    assert result.returncode == 0, result.stderr
    assert "4 steps of 2 from 367 images" in result.stdout
    assert "101 images" in result.stdout
    assert len(list((tmp_path / "run" / "eval-val").rglob("*.png"))) == 3
