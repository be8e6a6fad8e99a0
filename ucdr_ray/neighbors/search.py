"""Exact search, tile by tile: every score is computed once and serves both its row and its column."""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock, local

import torch
from torch import Tensor

from ucdr_ray.neighbors.nearest import GROUP, Nearest
from ucdr_ray.threads import each


@dataclass(frozen=True)
class Rows:
    """Some rows of a domain: `vectors` (N, D) float32, and the slot of each, (N,) int64."""

    vectors: Tensor
    slots: Tensor

    @classmethod
    def all(cls, vectors: Tensor, first: int = 0) -> "Rows":
        """Rows of consecutive slots."""
        return cls(vectors, torch.arange(first, first + len(vectors), device=vectors.device))

    def __len__(self) -> int:
        return len(self.slots)


def side(device: torch.device) -> int:
    """Rows and columns of a tile: one that stays in a core's cache, or on a GPU one that keeps it busy."""
    return 3072 if device.type == "cpu" else 16_384


def search(a: Rows, found: Nearest, b: Rows | None = None, back: Nearest | None = None) -> None:
    """Offer all of `b` to the lists `found` of `a`, and all of `a` to the lists `back` of `b`.

    Scores are inner products in float32, and don't depend on how rows are shared out among calls. Without `b`: inside
    `a`, each row without itself. Cost grows as N * M * D, half of it inside one set; memory, beside the lists, is one
    tile for each of torch's threads.

    Raises:
        ValueError: a vector is not finite.
    """
    other = a if b is None else b
    if not (bool(a.vectors.isfinite().all()) and bool(other.vectors.isfinite().all())):
        raise ValueError("vectors to search must be finite")
    size = side(a.vectors.device)
    height, width = _panels(len(a), size), _panels(len(other), size)
    locks = [Lock() for _ in height], [Lock() for _ in width]
    space = Space(a.vectors.device)

    def one(pair: tuple[int, int]) -> None:
        i, j = pair
        left, right = height[i], width[j]
        tile = scores(a.vectors[left], other.vectors[right], space)
        if b is None and i == j:
            tile.fill_diagonal_(float("-inf"))
        with locks[0][i]:
            found.add_rows(left, tile, _padded(other.slots[right]))
        if b is None and i != j:
            with locks[0][j]:
                found.add_columns(right, tile, _padded(a.slots[left]))
        elif back is not None:
            with locks[1][j]:
                back.add_columns(right, tile, _padded(a.slots[left]))

    threads = None if a.vectors.device.type == "cpu" else 1
    each(one, pairs_once(len(height), len(width), b is None), threads)


class Space(local):
    """Memory for one tile at a time in each thread: fresh memory would cost as much as the product."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(0, device=device)

    def tile(self, height: int, width: int) -> Tensor:
        """(height, width) float32 of any content, valid until the thread's next call."""
        if height * width > len(self._memory):
            self._memory = self._memory.new_empty(height * width)
        return self._memory[: height * width].view(height, width)


def scores(a: Tensor, b: Tensor, space: Space) -> Tensor:
    """Inner products (R, C) of (n, D) and (m, D), R and C padded to multiples of 32; minus infinity beyond n, m.

    With shapes of such multiples a product rounds alike wherever its row and column stand, and either way round: the
    same pair has the same score in every tile, so equal keys tie, and shards find what one process finds.
    """
    n, m = len(a), len(b)
    if n % GROUP:
        a = torch.nn.functional.pad(a, (0, 0, 0, -n % GROUP))
    if m % GROUP:
        b = torch.nn.functional.pad(b, (0, 0, 0, -m % GROUP))
    tile = torch.mm(a, b.T, out=space.tile(len(a), len(b)))
    tile[n:] = float("-inf")
    tile[:, m:] = float("-inf")
    return tile


def _padded(slots: Tensor) -> Tensor:
    return torch.nn.functional.pad(slots, (0, -len(slots) % GROUP))


def _panels(rows: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def pairs_once(height: int, width: int, inside: bool) -> Iterator[tuple[int, int]]:
    """All pairs of panels, once; neighbours in this order share no panel, so threads don't wait for each other."""
    if inside:
        for distance in range(height // 2 + 1):
            half = height % 2 == 0 and distance == height // 2
            for i in range(height // 2 if half and height else height):
                yield i, (i + distance) % height
    else:
        for distance in range(width):
            for i in range(height):
                yield i, (i + distance) % width
