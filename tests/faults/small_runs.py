"""Settings and command lines of training runs of a few steps of a network of three layers."""

from types import SimpleNamespace

from benchmarks.faults import small_network
from configs import quickstart
from gsto_jax.runs.experiment import Experiment
from gsto_jax.training import task

STEPS = 8


def settings(**run):
    config = quickstart.get_config("runlocal")
    config.data.image_size, config.data.crop = (32, 64), (32, 32)
    config.train.batch_size, config.train.steps = 4, STEPS
    config.eval.sample_images = config.eval.feature_images = 0
    config.run.checkpoint_every = 2
    config.optim.learning_rate = 0.01
    with config.unlocked():
        for name, value in run.items():
            config.run[name] = value
    return config


def arguments(workdir, config):
    """The command line of a run, with only these given."""
    others = dict.fromkeys(("fork_from", "checkpoint", "plan_json"))
    return SimpleNamespace(mode="train", config=config, workdir=str(workdir), **others)


def make_small(patch):
    patch.setattr(task, "build_network", small_network())
    patch.setattr(Experiment, "evaluate", lambda *args: "evaluated")
