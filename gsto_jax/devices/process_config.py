"""Address of a process in a multi-host run."""

from dataclasses import dataclass

from gsto_jax.errors import UserError


@dataclass(frozen=True)
class ProcessConfig:
    """Address of a process in a multi-host run.

    Attributes:
      coordinator: HOST:PORT of process 0.
      num_processes: number of processes.
      process_id: index of this process.
      num_slices: number of TPU slices, which have equally many processes and are counted one slice
        after the other.
      source: where the values come from, for messages.

    Raises:
      UserError: invalid port or index.
    """

    coordinator: str
    num_processes: int
    process_id: int
    num_slices: int = 1
    source: str = "--coordinator, --processes and --process"

    def __post_init__(self) -> None:
        """Raises UserError for invalid values."""
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                "--coordinator must be HOST:PORT of process 0, such as host0:8476; got "
                f"{self.coordinator!r}"
            )
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--process must be from 0 to {self.num_processes - 1}, with --processes="
                f"{self.num_processes}; got {self.process_id}"
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def describe(self, process_id: int) -> str:
        """Returns the index of a process, and its place if there are several slices."""
        if self.num_slices == 1:
            return f"process {process_id}"
        slice_id, worker = divmod(process_id, self.num_processes // self.num_slices)
        return f"process {process_id} (worker {worker} of slice {slice_id})"
