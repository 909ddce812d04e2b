"""How predict reads image files: as in training, unless the command line says otherwise."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs import coco_pose_w32
from gsto_jax import UserError
from gsto_jax.image_files import DecodeOptions
from gsto_jax.predict.inputs import find_inputs
from gsto_jax.predict.programs import Program, ProgramError
from gsto_jax.runs.trained import TrainedModel
from modes import predict, predict_program
from modes.predict_checkpoint import override_config
from modes.prediction_pipeline import PredictionPipeline
from tests.gsto_jax.exported_programs import describe
from tests.image_bytes import RGB, chunk, exif, png

CONFIG = json.loads(coco_pose_w32.get_config().to_json())
TRAINED = TrainedModel(None, None, None, "run/checkpoints/7", CONFIG)


def with_settings(**settings):
    flags = {f"config.data.{name}": value for name, value in settings.items()}
    return override_config(TRAINED, SimpleNamespace(**flags)).config["data"]


def test_the_run_of_coco_reads_files_as_published():
    assert DecodeOptions.of(CONFIG["data"]) == DecodeOptions(orientation="stored")


def test_the_command_line_may_change_how_files_are_read():
    settings = {"alpha": "black", "orientation": "upright", "bit_depth": 12}
    assert DecodeOptions.of(with_settings(**settings)) == DecodeOptions(**settings)
    for name, value in (("bit_depth", 3), ("alpha", "red"), ("mean", (0, 0, 0))):
        with pytest.raises(UserError, match=rf"config\.data.*\b{name}\b"):
            with_settings(**{name: value})


def test_ignored_orientations_are_reported(tmp_path):
    photo = np.zeros((4, 6, 3), np.uint8)
    for name, orientation in (("a.png", 1), ("b.png", 6), ("c.png", 3)):
        (tmp_path / name).write_bytes(png(photo, RGB, before=chunk(b"eXIf", exif(orientation))))
    (tmp_path / "damaged.png").write_bytes(b"x")
    inputs = find_inputs([str(tmp_path)], tmp_path / "out")
    warnings = []
    predict._warn_about_orientation(inputs, warnings.append)
    assert (
        f"warning: 2 images have an EXIF orientation, such as {tmp_path / 'b.png'}" in warnings[0]
    )
    assert "--config.data.orientation=upright" in warnings[0]
    predict._warn_about_orientation(inputs[:1], warnings.append)
    assert len(warnings) == 1


def program_flags(**flags):
    names = ("save", "long_side", "tile", "tile_overlap", "unsure_below", "boxes", "legend")
    return SimpleNamespace(**dict.fromkeys(names) | {"runtime": "auto"} | flags)


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("segmentation", {"tile": 64}, "--tile needs --checkpoint=RUN"),
        ("segmentation", {"tile_overlap": 0.1}, "--tile_overlap needs --checkpoint=RUN"),
        ("segmentation", {"long_side": 0}, "--long_side is part of .*--mode=export"),
        ("segmentation", {"save": ["ids", "gates"]}, "--save=gates needs --checkpoint=RUN"),
        ("segmentation", {"boxes": "1,2,3,4"}, "--boxes is for pose networks"),
        ("segmentation", {"runtime": "jax"}, "--runtime=jax does not run"),
        ("segmentation", {"config.eval.flip": True}, r"--config\.eval\.flip is part of"),
        ("segmentation", {"config.seed": 1}, r"--config\.seed is part of"),
        ("segmentation", {"config.data.bit_depth": 3}, r"config\.data: bit_depth must be"),
        ("pose", {"unsure_below": 0.5}, "--unsure_below is for segmentation networks"),
        ("pose", {"legend": True}, "--legend is for segmentation networks"),
        ("pose", {"save": ["heatmaps"]}, "--save=heatmaps needs --checkpoint=RUN"),
    ],
)
def test_what_programs_cannot_change_is_refused_by_name(monkeypatch, task, flags, message):
    program = Program(Path("model.onnx"), "onnx", describe(task), dict)
    monkeypatch.setattr(predict_program, "load_program", lambda path: program)
    with pytest.raises(UserError, match=message):
        predict_program.program_inputs(program_flags(**flags), program.path, [])


def test_programs_decode_files_as_the_command_line_says():
    program = Program(Path("model.onnx"), "onnx", describe(), dict)
    args = program_flags(**{"config.data.alpha": "black"})
    decoding = predict_program.override_decoding(program, args).decode_options
    assert decoding == DecodeOptions(alpha="black")


@pytest.mark.parametrize("task", ["segmentation", "pose"])
def test_a_program_that_fails_ends_the_command(monkeypatch, tmp_path, task):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(np.zeros((4, 6, 3), np.uint8), RGB))
    calls = []

    def fail(inputs):
        calls.append(inputs)
        raise ValueError("INVALID_ARGUMENT:\n no such operator")

    program = Program(Path("model.jax"), "jax", describe(task), fail)
    monkeypatch.setattr(predict_program, "load_program", lambda path: program)
    inputs = find_inputs([str(tmp_path)], tmp_path / "out")
    predictor = predict_program.program_inputs(program_flags(), program.path, inputs)
    with pytest.raises(ProgramError, match=r"model\.jax fails .*: INVALID_ARGUMENT: no such oper"):
        PredictionPipeline(predictor, None).run(inputs)
    assert len(calls) == 1


def test_unknown_runtimes_are_refused():
    with pytest.raises(UserError, match="--runtime must be one of auto, jax, onnx; got 'tpu'"):
        predict.run(SimpleNamespace(checkpoint="run", runtime="tpu"))
