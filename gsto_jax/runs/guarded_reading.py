"""Reads with orbax such that damaged files raise one clear error."""

import contextlib
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from gsto_jax.errors import TrainingError, UserError, first_line
from gsto_jax.storage.errors import bucket_error_message, is_refused, is_unavailable


class DamagedError(UserError):
    """A checkpoint cannot be read, although it was written completely."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        super().__init__(f"checkpoint {checkpoint} is damaged ({reason})")


def single_process() -> ocp.options.MultiprocessingOptions:
    """Options for reading, with which a process that finds damage does not block the others."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )


def read_guarded(checkpoint: Path, read: Callable[[], Any]) -> Any:
    """Calls a function that reads a checkpoint.

    Raises:
      DamagedError: it fails.
      TrainingError: the bucket of the checkpoint does not answer, which says nothing about it.
    """
    with _silence_orbax() as errors:
        try:
            return read()
        except UserError:
            raise
        except Exception as error:  # damaged files make the readers raise anything
            message = bucket_error_message(error, checkpoint)
            if message is not None and is_refused(error):
                raise UserError(message) from None
            if message is not None and is_unavailable(error):
                raise TrainingError(message) from None
            errors.append(first_line(error))
    raise DamagedError(checkpoint, errors[0])


@contextlib.contextmanager
def _silence_orbax() -> Iterator[list[str]]:
    """Suppresses logs and warnings of orbax while it reads; yields a list for errors.

    Orbax reads all arrays concurrently and raises the first error. The other failed reads would
    appear as hundreds of Python warnings about tasks that were never awaited.
    """
    errors: list[str] = []
    with contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, ("asyncio", "absl")):
            stack.callback(setattr, logger, "disabled", logger.disabled)
            logger.disabled = True
        stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = lambda *_: None
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield errors
        if errors:
            gc.collect()
            time.sleep(0.5)  # until the reading threads end
            gc.collect()
