"""Trackers of metrics and images: TensorBoard, Weights & Biases and MLflow.

The library writes to a `Trackers`, and never imports the packages of a tracker.
"""

import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gsto_jax import progress
from gsto_jax.config import flatten
from gsto_jax.errors import TrainingError, UserError, first_line
from gsto_jax.files import is_remote, read_json_object
from gsto_jax.runs.workdir import Workdir
from modes.tensorboard_writer import TensorBoardWriter

PROJECT = "gsto_jax"
"""Project at W&B and experiment of MLflow, unless an environment variable names one."""
RETRY_SECONDS = 300.0
"""Time for which a tracker that failed is left out."""
UPLOAD_SECONDS = 300.0
"""Longest time to wait for uploads to Weights & Biases at the end; the rest stays in its folder."""

_PACKAGES = {
    "tensorboard": ("train", ("clu", "tensorboard", "tensorflow")),
    "wandb": ("wandb", ("wandb",)),
    "mlflow": ("mlflow", ("mlflow",)),
}
"""Extra of pyproject.toml and modules that each tracker needs."""
_MAX_PARAMS = 100
"""Number of parameters that MLflow accepts at once."""
_MAX_PARAM_LENGTH = 6000
"""Number of characters that MLflow keeps of a parameter."""


class Tracker(Protocol):
    """Writes metrics and images of a run, each of a step.

    Attributes:
      address: where to see them; empty if that needs no line in the log.
    """

    address: str

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars by name."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images, `n h w 3` uint8, by name."""

    def flush(self) -> None:
        """Writes buffered values."""

    def close(self, failed: bool) -> None:
        """Ends this part of the run, which may be resumed."""


class WandbTracker:
    """A run at Weights & Biases, or in the folder of the run with `WANDB_MODE=offline`.

    Args:
      folder: folder of the run. W&B writes to a temporary folder if it is in a bucket.
      name: name of the run.
      config: all options.
      run_id: id of the run to resume; None to create one.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], run_id: str | None
    ) -> None:
        import wandb

        self.run_id = run_id or secrets.token_hex(4)
        self._image = wandb.Image
        # The terminal belongs to the progress display.
        settings = wandb.Settings(console="off", silent=True, finish_timeout=UPLOAD_SECONDS)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=self.run_id,
            resume="allow",
            dir=tempfile.mkdtemp() if is_remote(folder) else folder,
            config=dict(config),
            settings=settings,
        )
        # W&B drops values of a step before its latest one, to which a resumed run goes back.
        self._run.define_metric("*", step_metric="step")
        offline = f"offline, until `wandb sync {Path(self._run.dir).parent}`"
        self.address = offline if self._run.offline else self._run.url

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars by name."""
        self._run.log({**scalars, "step": step})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images, `n h w 3` uint8, by name."""
        self._run.log({k: [*map(self._image, x)] for k, x in images.items()} | {"step": step})

    def flush(self) -> None:
        """Does nothing, since a process of W&B writes the values."""

    def close(self, failed: bool) -> None:
        """Waits for uploads and ends the run."""
        self._run.finish(exit_code=int(failed))


class MLflowTracker:
    """A run of an MLflow server or database, as `MLFLOW_TRACKING_URI` says.

    Args:
      name: name of the run.
      config: all options.
      run_id: id of the run to resume; None to create one.
    """

    def __init__(self, name: str, config: Mapping[str, Any], run_id: str | None) -> None:
        # By default a request to a lost server is repeated for many minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient()
        self.run_id = self._resume(run_id) or self._create(name, config, Param)
        self.address = f"run {self.run_id} in {mlflow.get_tracking_uri()}"

    def _resume(self, run_id: str | None) -> str | None:
        """Returns the id if there is such a run, which is marked as running again."""
        if run_id is None:
            return None
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another server, or deleted
                return None
            raise
        return run_id

    def _create(self, name: str, config: Mapping[str, Any], param: Any) -> str:
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(experiment_name)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(experiment_name)
        )
        run_id: str = self._client.create_run(experiment_id, run_name=name).info.run_id
        values = flatten(config).items()
        params = [param(key, str(value)[:_MAX_PARAM_LENGTH]) for key, value in values]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])
        return run_id

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars by name."""
        now = round(1000 * time.time())
        metrics = [self._metric(_clean(k), value, now, step) for k, value in scalars.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images, `n h w 3` uint8, by name."""
        for name, batch in images.items():
            for n, image in enumerate(batch):
                key = _clean(name if len(batch) == 1 else f"{name}/{n}", re.ASCII)
                self._client.log_image(self.run_id, image, key=key, step=step)

    def flush(self) -> None:
        """Does nothing, since every value is written at once."""

    def close(self, failed: bool) -> None:
        """Marks the run as ended."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


def _clean(name: str, flags: int = 0) -> str:
    """Returns a name as MLflow accepts it: a relative path of letters, digits and a few signs."""
    parts = re.sub(r"[^\w. /-]", "_", name, flags=flags).split("/")
    return "/".join(part for part in parts if part.strip("."))


class Trackers:
    """Writes to several trackers. One that fails is left out for a while, with one warning.

    Args:
      trackers: the trackers by name.
      log: prints a line of text.
      clock: returns the time in seconds.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trackers, self._log, self._clock = dict(trackers), log, clock
        self._retry_times: dict[str, float] = {}

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars by name."""
        self._call("write_scalars", step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images, `n h w 3` uint8, by name."""
        self._call("write_images", step, images)

    def flush(self) -> None:
        """Writes buffered values."""
        self._call("flush")

    def close(self, failed: bool) -> None:
        """Closes all trackers."""
        with progress.track("closing the trackers", resumable=True):
            self._call("close", failed)

    def _call(self, method: str, *args: Any) -> None:
        for name, tracker in self._trackers.items():
            if self._clock() < self._retry_times.get(name, -np.inf):
                continue
            try:
                getattr(tracker, method)(*args)
            except TrainingError:
                raise
            except Exception as error:  # each package raises its own, and those of the network
                if name not in self._retry_times:
                    self._log(
                        f"warning: cannot write to {name} ({first_line(error)}): training goes "
                        f"on, and {name} is tried again every {RETRY_SECONDS / 60:g} minutes"
                    )
                self._retry_times[name] = self._clock() + RETRY_SECONDS


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError unless the packages that trackers need are installed."""
    for name in names:
        extra, modules = _PACKAGES[name]
        # Importing them would take seconds.
        if missing := [module for module in modules if not _is_installed(module)]:
            raise UserError(
                f"config.run.trackers: {name} needs missing packages ({', '.join(missing)}): run "
                f"pip install 'gsto-jax[{extra}]', or leave {name} out"
            )


def _is_installed(module: str) -> bool:
    spec = find_spec(module)
    # A folder of runs, such as ./wandb, looks like a package without a file.
    return spec is not None and spec.origin is not None


@contextlib.contextmanager
def open_trackers(
    names: Sequence[str],
    workdir: Workdir,
    config: Mapping[str, Any],
    log: Callable[[str], None],
) -> Iterator[Trackers | None]:
    """Opens trackers for a part of a run, and closes them; yields None without any.

    Args:
      names: names of the trackers.
      workdir: folder of the run, which keeps the ids of the trackers' runs in `trackers.json`.
      config: all options.
      log: prints a line of text.
    """
    trackers: dict[str, Tracker] = {}
    ids = read_json_object(workdir.path / "trackers.json") or {}
    for name in names:
        try:
            trackers[name] = _open(name, workdir.path, config, ids.get(name))
        except TrainingError:
            raise
        except Exception as error:
            log(f"warning: cannot write to {name} ({first_line(error)}): training goes on without")
            continue
        if address := trackers[name].address:
            log(f"{name:<12}{address}")
    run_ids = {name: x.run_id for name, x in trackers.items() if hasattr(x, "run_id")}
    if run_ids:
        workdir.write_config(ids | run_ids, "trackers.json")
    if not trackers:
        yield None
        return
    writer = Trackers(trackers, log)
    try:
        yield writer
    except BaseException:
        writer.close(failed=True)
        raise
    writer.close(failed=False)


def _open(name: str, folder: Path, config: Mapping[str, Any], run_id: str | None) -> Tracker:
    if name == "wandb":  # without a progress display, since it may ask for a key
        return WandbTracker(folder, config["name"], config, run_id)
    with progress.track(f"loading {name}", resumable=True):
        if name == "mlflow":
            return MLflowTracker(config["name"], config, run_id)
        return TensorBoardWriter(folder / "tensorboard")
