"""Random numbers of a step: the same for an image on any number of workers."""

import torch
from torch import Tensor


class Draws:
    """Random numbers for a whole (global) batch, of which a worker takes its rows.

    Args:
        rows: images in the global batch.
        seed: of the step and of what the numbers are for.
        take: (B,) int64, which rows of the global batch are this worker's.
    """

    def __init__(self, rows: int, seed: int, take: Tensor) -> None:
        self._rows, self._take = rows, take
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> Tensor:
        """(B,) from low to high."""
        return low + (high - low) * torch.rand(self._rows, generator=self._generator)[self._take]

    def chance(self, probability: float) -> Tensor:
        """(B,) bool."""
        return torch.rand(self._rows, generator=self._generator)[self._take] < probability

    def normal(self, *shape: int) -> Tensor:
        """(B, ...) of mean 0 and variance 1."""
        return torch.randn(self._rows, *shape, generator=self._generator)[self._take]
