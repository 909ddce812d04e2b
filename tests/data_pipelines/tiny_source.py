"""A source for tests; worker processes import it, so it cannot live in a conftest."""

from typing import Any

import numpy as np


class TinySource:
    """Small random images; all pixels of a label hold its index."""

    def __init__(self, size: int, sizes: tuple[tuple[int, int], ...] = ((6, 8),)) -> None:
        self._size = size
        self._sizes = sizes

    def __len__(self) -> int:
        return self._size

    def name(self, index: int) -> str:
        return str(index)

    def size(self, index: int) -> tuple[int, int]:
        return self._sizes[index % len(self._sizes)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        height, width = self.size(index)
        image = np.random.default_rng(int(index)).integers(0, 256, (height, width, 3), np.uint8)
        label = np.full((height, width), index, np.uint8)
        return {"image": image, "label": label, "index": int(index)}
