"""Base class of the predictors of exported programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from gsto_jax.image_files import DecodeOptions
from gsto_jax.predict.programs import Program, load_program


@dataclass(frozen=True)
class BaseExportedPredictor:
    """An exported network that makes predictions for images.

    Attributes:
      program: the program.

    Raises:
      UserError: a program of another task.
    """

    task_name: ClassVar[str]

    program: Program

    def __post_init__(self) -> None:
        self.program.check_task(self.task_name)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Loads a program; see `gsto_jax.predict.programs.load_program`."""
        return cls(load_program(path), **options)

    @property
    def checkpoint(self) -> Path:
        """Path of the program."""
        return self.program.path

    @property
    def decode_options(self) -> DecodeOptions:
        """How image files are decoded, as in training."""
        return self.program.decode_options
