"""Exact search, tile by tile: every pair is compared once, which serves both its row and its column."""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from ucdr_ray.neighbors.nearest import Nearest
from ucdr_ray.neighbors.screen import Screened, Space, Tile, dots
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
    `a`, each row without itself. Cost grows as N * M * D, half of it inside one set; memory, beside the lists, is half
    of that of the vectors and one tile for each of torch's threads, or four where nearly all scores are equal.

    Raises:
        ValueError: a vector is not finite, or longer than 1e15, or shorter than 1e-15 and not 0.
    """
    other = a if b is None else b
    device = a.vectors.device
    mine = Screened.of(a.vectors)
    theirs = mine if b is None else Screened.of(b.vectors)
    height, width = _panels(len(a), side(device)), _panels(len(other), side(device))
    locks = [Lock() for _ in height], [Lock() for _ in width]
    space = Space(device)

    def one(pair: tuple[int, int]) -> None:
        i, j = pair
        left, right = height[i], width[j]
        if b is not None:
            mirror, lock = back, locks[1][j]
        else:
            mirror, lock = None if i == j else found, locks[0][j]
        tile = Tile(mine.some(left), theirs.some(right), space)
        if b is None and i == j:
            own = torch.arange(left.stop - left.start, device=device)
            tile.leave_out(own, own)
        for row, column in candidates(
            tile, (found, left, locks[0][i]), None if mirror is None else (mirror, right, lock)
        ):
            score = dots(a.vectors[left], row, other.vectors[right], column)
            with locks[0][i]:
                found.offer(left, row, score, other.slots[right].index_select(0, column))
            if mirror is not None:
                slot = a.slots[left].index_select(0, row)
                with lock:
                    mirror.offer(right, column, score, slot)

    each(one, pairs_once(len(height), len(width), b is None), None if device.type == "cpu" else 1)


Lists = tuple[Nearest, slice, Lock]  # some lists, and what to hold while they change


def candidates(tile: Tile, rows: Lists, columns: Lists | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (E,), (E,) of the tile's rows and columns that their lists may want; the tile is to be offered to both."""
    sides = [rows] if columns is None else [rows, columns]

    def expect(tile: Tile, always: bool) -> None:
        """Say how good a tile's best are, where nothing is known yet: of what is worse there may be too much."""
        for at, (found, some, lock) in enumerate(sides):
            with lock:
                if (always or found.empty(some)) and (
                    floor := tile.floor(found.k, columns=at == 1)
                ) is not None:
                    found.expect(some, floor)

    def floors() -> tuple[Tensor, Tensor | None]:
        return rows[0].floor(rows[1]), None if columns is None else columns[0].floor(columns[1])

    expect(tile, always=False)
    if (found := tile.reaching(*floors())) is None:
        tile = tile.unrounded()
        expect(tile, always=True)
        found = tile.reaching(*floors())
    return iter(()) if found is None else found


def _panels(rows: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def pairs_once(height: int, width: int, inside: bool) -> Iterator[tuple[int, int]]:
    """All pairs of panels, once; neighbours in this order share one at most, so threads seldom wait for each other."""
    if inside:
        for distance in range(height // 2 + 1):
            half = height % 2 == 0 and distance == height // 2
            for i in range(height // 2 if half and height else height):
                yield i, (i + distance) % height
    else:
        for distance in range(width):
            for i in range(height):
                yield i, (i + distance) % width
