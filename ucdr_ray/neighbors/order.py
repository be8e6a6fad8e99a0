"""The order in which rows are searched: alike ones first, so that lists are nearly final after a tile or two."""

import torch
from torch import Tensor

from ucdr_ray.neighbors.screen import Space
from ucdr_ray.neighbors.search import Rows, side
from ucdr_ray.threads import each

_PIVOTS = 4  # for each tile
_BLOCK = 512  # rows assigned at once, so that their products stay in the cache
_EVEN = 32  # products of so many rows and columns, or a multiple, round alike wherever a row stands


def alike(rows: Rows) -> Rows:
    """The same rows, those of a tile alike.

    Each goes to the nearest of some rows drawn at random: 1 / 400 of a search. Inside a tile the order is random,
    since a first tile is judged by the best of each of some groups of it, which should not be alike. What a search
    finds does not depend on the order.
    """
    device, size = rows.vectors.device, side(rows.vectors.device)
    if len(rows) <= size:
        return rows
    draw = torch.Generator().manual_seed(0)
    pivots = torch.randperm(len(rows), generator=draw)[: _PIVOTS * len(rows) // size].to(device)
    order = closest(rows.vectors, rows.vectors[pivots]).argsort(stable=True)
    order = torch.cat([
        tile[torch.randperm(len(tile), generator=draw).to(device)] for tile in order.split(size)
    ])  # fmt: skip
    return Rows(rows.vectors[order], rows.slots[order])


def by_slot(codes: Tensor, rows: Rows, first: int = 0) -> Tensor:
    """Lists (N, k) of `rows`, whose slots are first, first + 1, ..., in the order of the slots."""
    found = torch.empty_like(codes)
    found[rows.slots - first] = codes
    return found


def closest(vectors: Tensor, centres: Tensor) -> Tensor:
    """(N,) int64: which of `centres` (K, D) has the largest product with each of (N, D) rows."""
    found = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    space, columns = Space(vectors.device), _padded(centres)

    def one(first: int) -> None:
        rows = vectors[first : first + _BLOCK]
        tile = torch.mm(
            _padded(rows), columns.T, out=space.take(len(rows) + -len(rows) % _EVEN, len(columns))
        )
        found[first : first + _BLOCK] = tile[: len(rows), : len(centres)].argmax(1)

    each(one, range(0, len(vectors), _BLOCK), None if vectors.device.type == "cpu" else 1)
    return found


def _padded(rows: Tensor) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _EVEN))
