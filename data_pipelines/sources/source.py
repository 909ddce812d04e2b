"""The interface of all sources of examples."""

from typing import Any, Protocol

from data_pipelines.sources.stats import LabelStats


class Source(Protocol):
    """Random access to the examples of a split."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files left out, and what else is suspicious without reading any file."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns image `h w c` uint8 (RGB if c is 3), label `h w` uint8 train ids, index int.

        Image and label are arrays, or objects that decode the rectangle they are indexed with.
        `PersonSource` returns joints instead of a label, `ClassImages` an `EncodedImage` and the
        number of its class.
        """
        ...

    def name(self, index: int) -> str:
        """Returns the name under which results of an example are saved."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """Returns (h, w) of an image without decoding it; of a person, the size of the crop."""
        ...

    def stored_bytes(self, index: int) -> int:
        """Reads what is stored of an example, without decoding it; returns its size in bytes."""
        ...

    def inspect(self, index: int) -> LabelStats:
        """Returns the label statistics and issues of a record; never raises for a wrong record."""
        ...
