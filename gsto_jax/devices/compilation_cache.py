"""Persistent cache of compiled programs."""

import os
import platform
from pathlib import Path
from typing import Any

import jax

from gsto_jax.devices import processes
from gsto_jax.storage.paths import is_remote, to_path

AUTO = "auto"
"""Option for a folder that suits the number of processes."""
_HOME_FOLDER = "~/.cache/gsto_jax/xla"
_SHARED_NAME = "xla_cache"
_MIN_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def use_compilation_cache(folder: str, workdir: Path | None = None) -> None:
    """Caches compiled programs in a folder unless JAX already has a cache.

    Args:
      folder: local folder or URL; "auto" for a folder in the home, or with several processes beside
        the workdir; "" for no cache.
      workdir: folder of the run.
    """
    if not folder or jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    path = cache_folder(folder, workdir, shared=processes.is_multiprocess())
    jax.config.update("jax_compilation_cache_dir", str(path))
    if is_remote(path):
        # Caches of XLA itself, on GPUs, need a local folder.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    if processes.is_multiprocess():
        _share_keys_on_cpus()
        if _MIN_SECONDS not in os.environ:
            # A host that compiles what another one reads would keep all hosts waiting.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _share_keys_on_cpus() -> None:
    """Makes a program's key the same in all processes.

    On CPUs, JAX's key describes the devices of the own process too, so that no process would find
    the programs of process 0. It is replaced by their kinds, as JAX does without a description, and
    by the instructions that the CPU has.
    """
    if jax.default_backend() != "cpu":
        return
    from jax._src import cache_key

    def hash_cpu(hash_object: Any, devices: Any) -> None:
        cache_key._hash_devices(hash_object, devices)
        hash_object.update(_cpu_features().encode())

    cache_key._hash_accelerator_config = hash_cpu  # type: ignore[assignment]


def _cpu_features() -> str:
    """Returns the line of /proc/cpuinfo with the instructions of the CPU; its name elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = (line for line in lines if line.startswith(("flags", "Features")))
    return next(features, platform.processor())


def cache_folder(folder: str, workdir: Path | None, *, shared: bool) -> Path:
    """Returns the folder of the cache.

    Of several processes JAX lets only process 0 write, so all must read one folder. The workdir's
    parent serves all runs in it. The workdir itself is used only if it is a whole bucket: a cache
    holds programs that are executed, and a run may come from elsewhere.

    Args:
      folder: value of `run.compilation_cache` that is not empty.
      workdir: folder of the run; None for the cache of one process.
      shared: whether the run has several processes.
    """
    if folder != AUTO:
        return to_path(folder, "config.run.compilation_cache")
    if shared and workdir is not None:
        is_bucket = str(workdir.parent).endswith("://")
        return (workdir if is_bucket else workdir.parent) / _SHARED_NAME
    return to_path(_HOME_FOLDER, "config.run.compilation_cache")
