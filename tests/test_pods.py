"""Files of `examples/pods`: valid, consistent with the program, and run on loopback."""

import re
import shlex
import signal
import subprocess
import tomllib

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from gsto_jax.config import RunConfig
from modes.command_line import load_with_overrides
from modes.registry import MODES
from tests import program, tpu_hosts

FOLDER = program.ROOT / "examples" / "pods"
CHIPS_PER_HOST = 4


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((FOLDER / "jobset.yaml").read_text())


def job_of(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(jobset):
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container


def test_jobset_has_only_fields_of_its_schema(jobset):
    """The models drop fields that they do not have, and refuse values of other types."""
    assert JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset


def test_jobset_starts_every_host_of_a_slice(jobset):
    job = job_of(jobset)
    rows, columns = map(
        int, job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    )
    assert container_of(jobset)["resources"]["limits"]["google.com/tpu"] == CHIPS_PER_HOST
    assert job["parallelism"] == job["completions"] == rows * columns // CHIPS_PER_HOST
    assert job["backoffLimit"] == 0


def test_jobset_restarts_preempted_runs_only(jobset):
    (rule,) = job_of(jobset)["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    assert rule["onExitCodes"]["containerName"] == container_of(jobset)["name"]
    assert rule["onExitCodes"]["values"] == [1, 2]
    assert RunConfig().preemption_status not in rule["onExitCodes"]["values"]


def arguments(text):
    """Returns the arguments of the program in a shell command of several lines."""
    return shlex.split(text.partition("main.py")[2].replace("\\\n", " "))


def commands(jobset):
    """Returns the arguments of the program in every file."""
    slurm, startup = ((FOLDER / name).read_text() for name in ("slurm.sh", "startup.sh"))
    sky = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())["run"]
    for name, value in (("SKYPILOT_NUM_NODES", "2"), ("SKYPILOT_NODE_RANK", "0")):
        sky = sky.replace(f"${name}", value)
    sky = sky.replace('$(head -n1 <<< "$SKYPILOT_NODE_IPS")', "host0")
    return {
        "jobset": container_of(jobset)["args"],
        "slurm": arguments(slurm[slurm.index("srun") : slurm.index("\nstatus=")]),
        "startup": arguments(startup[startup.index("ExecStart=") : startup.index("\n# 42")]),
        "skypilot": arguments(sky),
    }


@pytest.mark.parametrize("name", ["jobset", "slurm", "skypilot", "startup"])
def test_commands_are_valid(jobset, monkeypatch, name):
    monkeypatch.chdir(program.ROOT)
    args = commands(jobset)[name]
    flags = [arg[2:].partition("=")[0] for arg in args if not arg.startswith("--config")]
    assert set(flags) <= set(MODES["train"].flags)
    (file,) = [arg.partition("=")[2] for arg in args if arg.startswith("--config=")]
    config = load_with_overrides(file, [arg for arg in args if arg.startswith("--config.")])
    assert (config.train.batch_size, config.train.recipe_batch_size) == (64, 12)
    assert config.run.checkpoint_minutes == 10


@pytest.mark.parametrize("name", ["slurm", "startup", "setup", "run"])
def test_shell_scripts_parse(name):
    if (path := FOLDER / f"{name}.sh").exists():
        script = path.read_text()
        assert script.startswith("#!/bin/bash\n")
    else:
        script = yaml.safe_load((FOLDER / "skypilot.yaml").read_text())[name]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_extras_of_the_image_exist():
    extras = tomllib.loads((program.ROOT / "pyproject.toml").read_text())["project"]
    text = (FOLDER / "Dockerfile").read_text()
    assert '".[train,gcs,${EXTRA}]"' in text
    assert {"train", "gcs", "tpu", "cuda"} <= set(extras["optional-dependencies"])


@pytest.mark.slow
def test_two_slices_of_the_jobset_stop_and_go_on_in_a_bucket(jobset, bucket):
    """The container's arguments in the environment of GKE, for one host of each slice."""
    replaced = ("--config", "--workdir", "--config.data.root", "--config.init_from")
    replaced += ("--config.model.dtype",)  # CPUs compile bfloat16 for minutes
    args = [arg for arg in container_of(jobset)["args"] if arg.partition("=")[0] not in replaced]
    args += ["--config=configs/quickstart.py:runlocal", f"--workdir={bucket}/w48"]
    args += ["--config.train.steps=1000", "--config.train.batch_size=4"]
    args += ["--config.data.image_size=(32,64)", "--config.data.crop=(32,64)"]
    args.append("--config.model.variant=resnet_mini")

    with tpu_hosts.slices_on_gke() as environments:
        processes = [tpu_hosts.start(environment, *args) for environment in environments]
        try:
            for line in processes[0].stdout:
                if line.startswith("step"):
                    break
            processes[1].send_signal(signal.SIGTERM)  # Kubernetes signals every pod; one is enough
            ends = program.finish(processes)
        finally:
            program.end(processes)
    assert [status for status, *_ in ends] == [RunConfig().preemption_status] * 2, ends
    step = int(re.search(r"resume from step (\d+)", ends[0][1])[1])
    assert 0 < step < 1000

    with tpu_hosts.slices_on_gke() as environments:
        ends = tpu_hosts.run(environments, *args, f"--config.run.stop_at={step + 2}")
    assert [status for status, *_ in ends] == [0, 0], ends
    assert f"resuming from step {step}" in ends[0][1]
