"""A run that is interrupted in any way ends with the results of an uninterrupted run."""

import json
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from gsto_jax.devices.mesh import make_mesh
from gsto_jax.runs import checkpoint
from gsto_jax.runs.tasks import task_from_config
from tests import program

pytestmark = pytest.mark.slow

STEPS = 8


def command(workdir, *more):
    return [
        "--config=configs/quickstart.py:runlocal",
        "--config.model.variant=resnet_mini",
        f"--workdir={workdir}",
        f"--config.train.steps={STEPS}",
        "--config.train.batch_size=4",
        "--config.eval.batch_size=4",
        "--config.eval.sample_images=0",
        "--config.eval.feature_images=0",
        "--config.run.checkpoint_every=2",
        "--config.run.eval_every=4",
        "--config.optim.ema_decay=0.5",
        *more,
    ]


def start(*args, devices=2):
    return program.start(*args, devices=devices)


def run(*args, devices=2):
    return program.run(*args, devices=devices)


def final_state(workdir, step=STEPS):
    """Arrays of a checkpoint of a run."""
    folder = workdir / "checkpoints" / str(step)
    record = checkpoint.read_record(folder)
    assert record["data"] == {"batches": step}
    task, mesh = task_from_config(record["config"]), make_mesh(jax.devices()[:1])
    return jax.device_get(checkpoint.read_state(folder, task, mesh))


def losses(text):
    """Step -> what its line of progress says of the losses."""
    return dict(re.findall(r"step +(\d+)/\d+ \| (loss \S+ \| lr \S+)", text))


def assert_same_run(workdir, undisturbed):
    for array, expected_array in zip(
        jax.tree.leaves(final_state(workdir)),
        jax.tree.leaves(final_state(undisturbed)),
        strict=True,
    ):
        np.testing.assert_array_equal(array, expected_array)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Returns the folder and the losses of an uninterrupted run."""
    runs = {}

    def make(devices):
        if devices not in runs:
            workdir = tmp_path_factory.mktemp(f"undisturbed{devices}")
            result = run(*command(workdir), devices=devices)
            assert result.returncode == 0, result.stderr
            runs[devices] = workdir, losses(result.stdout)
            assert len(runs[devices][1]) == STEPS
        return runs[devices]

    return make


def disturb(process, after, how):
    """Sends a signal once a line of progress came, `after` seconds later. Returns the output."""
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("step"):
            break
    time.sleep(after)
    process.send_signal(how)
    ((_, rest, errors),) = program.finish([process])
    return output + rest, errors


def evaluated(workdir):
    """Steps and scores of the evaluations while training, the last line of each step."""
    lines = map(json.loads, (workdir / "evaluations.jsonl").read_text().splitlines())
    return {line["step"]: line["mean_iou"] for line in lines if line["while_training"]}


@pytest.mark.long
@pytest.mark.parametrize(("devices", "workers"), [(1, 0), (2, 1), (4, 0)])
def test_killed_at_random_moments(tmp_path, undisturbed, devices, workers):
    """Whether threads or worker processes prepare the batches."""
    whole, expected = undisturbed(devices)
    args = command(tmp_path, f"--config.data.workers={workers}")
    seed = random.randrange(10**6)
    rng, output, ends = random.Random(seed), "", []
    print(f"moments drawn from seed {seed}")
    for n in range(4):
        process = start(*args, devices=devices)
        if n % 2:  # anywhere: set-up, restoring, steps, saving, evaluating
            time.sleep(rng.uniform(0, 10))
            process.kill()
            text, _ = process.communicate()
        else:
            text, _ = disturb(process, rng.uniform(0, 1), signal.SIGKILL)
        output += text
        ends.append(process.returncode)
    assert ends[0] == -signal.SIGKILL, "no kill came in time"
    result = run(*args, devices=devices)
    assert result.returncode == 0, result.stderr
    for step, line in losses(output + result.stdout).items():
        assert line == expected[step], f"step {step}"
    assert_same_run(tmp_path, whole)
    assert evaluated(tmp_path) == evaluated(whole)
    assert checkpoint.list_steps(tmp_path / "best") == checkpoint.list_steps(whole / "best")


def test_sigterm_saves_and_exits_cleanly(tmp_path, undisturbed):
    whole, expected = undisturbed(2)
    process = start(*command(tmp_path, "--config.run.checkpoint_every=1000"))
    text, errors = disturb(process, 0, signal.SIGTERM)
    assert process.returncode == 42, errors
    step = int(re.search(r"stopped by SIGTERM: .*from step (\d+)", text)[1])
    assert 1 <= step < STEPS
    assert checkpoint.list_steps(tmp_path / "checkpoints") == [step]
    assert "mean IoU" not in text
    result = run(*command(tmp_path))
    assert f"resuming from step {step}: {tmp_path}/checkpoints/{step}" in result.stdout
    assert set(losses(result.stdout)) == {str(n) for n in range(step + 1, STEPS + 1)}
    assert losses(text) | losses(result.stdout) == expected
    assert_same_run(tmp_path, whole)


@pytest.mark.long
def test_a_truncated_newest_checkpoint_falls_back(tmp_path, undisturbed):
    whole, _ = undisturbed(2)
    partial = run(*command(tmp_path, "--config.run.stop_at=4"))
    assert partial.returncode == 0, partial.stderr
    assert re.search(r"step 4\b.*run\.stop_at", partial.stdout)
    arrays = tmp_path / "checkpoints" / "4" / "state"
    for path in arrays.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run(*command(tmp_path))
    assert result.returncode == 0, result.stderr
    set_aside = tmp_path / "checkpoints" / "damaged-4"
    message = rf"{tmp_path}/checkpoints/4 is damaged .*{set_aside}"
    assert re.search(message, result.stdout), result.stdout
    assert "resuming from step 2" in result.stdout
    assert set_aside.is_dir()
    assert_same_run(tmp_path, whole)


def test_a_finished_run_is_only_evaluated(tmp_path, undisturbed):
    whole, _ = undisturbed(2)
    shutil.copytree(whole, tmp_path / "copy")
    result = run(*command(tmp_path / "copy"))
    assert result.returncode == 0, result.stderr
    assert losses(result.stdout) == {}
    assert "mean IoU" in result.stdout
    starts = (tmp_path / "copy" / "starts.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in starts] == [0, STEPS]


def test_settings_that_decide_the_result_may_not_change(tmp_path, undisturbed):
    whole, _ = undisturbed(2)
    result = run(
        *command(
            whole, "--config.optim.momentum=0.5", "--config.run.log_every=3", "--config.seed=2"
        )
    )
    assert result.returncode == 2
    (message,) = result.stderr.strip().splitlines()
    fields = r"optim\.momentum .*: 0\.9 .*0\.5 now; seed .*: 0 .*2 now\."
    assert re.match(f"error: .*{whole} .*{fields} .*--fork_from={whole}", message)
    assert "log_every" not in message


def test_fork_continues_in_another_folder(tmp_path, undisturbed):
    whole, expected = undisturbed(2)
    source = whole / "checkpoints" / "6"
    args = command(tmp_path, "--config.optim.momentum=0.5", f"--fork_from={source}")
    completed = run(*args)
    assert completed.returncode == 0, completed.stderr
    assert f"starting from step 6 of {source}" in completed.stdout
    result = losses(completed.stdout)
    assert set(result) == {"7", "8"}
    assert result["7"] == expected["7"], "the same parameters and the same batch"
    assert result["8"] != expected["8"], "another momentum"
    completed = run(*command(tmp_path / "more", f"--fork_from={whole}"))
    assert completed.returncode == 2
    assert re.search(r"\bstep 8\b.*\b8 steps", completed.stderr)


NOT_FINITE = r"error: step (\d+): .*not finite \(gradient_norm .*, loss/stage4 \S+\)\. "


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path, undisturbed):
    whole, _ = undisturbed(2)
    diverge = "--config.optim.learning_rate=1e18"
    completed = run(*command(tmp_path / "new", diverge, "--config.run.checkpoint_every=100"))
    assert completed.returncode == 1
    assert re.fullmatch(NOT_FINITE + "No checkpoint .*", completed.stderr.strip())
    assert checkpoint.list_steps(tmp_path / "new" / "checkpoints") == []
    source = whole / "checkpoints" / "4"
    completed = run(*command(tmp_path / "fork", diverge, f"--fork_from={source}"))
    assert completed.returncode == 1
    good = tmp_path / "fork" / "checkpoints"
    message = completed.stderr.strip().splitlines()[-1]  # orbax may warn of the checkpoint it reads
    result = re.fullmatch(rf"{NOT_FINITE}.*{good}/(\d+)", message)
    assert result, completed.stderr
    assert checkpoint.list_steps(good)[-1] == int(result[2]) < int(result[1])
    assert np.isfinite(jax.tree.leaves(final_state(tmp_path / "fork", int(result[2])))[-1]).all()


def test_two_processes_do_not_share_a_folder(tmp_path):
    process = start(*command(tmp_path, "--config.train.steps=100000"))
    try:
        for line in process.stdout:
            if line.startswith("workdir"):
                break
        result = run(*command(tmp_path, "--config.train.steps=100000"))
        assert result.returncode == 2
        assert f"{tmp_path} is in use by process {process.pid}" in result.stderr
    finally:
        process.kill()
        process.communicate()
