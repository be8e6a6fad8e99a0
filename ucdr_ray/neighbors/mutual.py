"""Mutual k-nearest neighbours as sparse graphs: memory grows with rows x k, never rows x rows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.neighbors.nearest import Nearest, seen_from, slots_of
from ucdr_ray.neighbors.order import alike, by_slot
from ucdr_ray.neighbors.search import Rows, search
from ucdr_ray.threads import each

_LAST = 2**62  # after every slot
_BLOCK = 4096  # lists at once


@dataclass(frozen=True)
class Graph:
    """Neighbours of each query row as compressed rows (CSR): row i's are `indices[indptr[i]:indptr[i + 1]]`."""

    indptr: Tensor  # (N + 1,) int64
    indices: Tensor  # (edges,) int64, ascending inside a row

    def degrees(self) -> Tensor:
        """(N,) int64, neighbours of each row."""
        return self.indptr.diff()

    def share(self) -> float:
        """Share of rows with at least one neighbour, in [0, 1]."""
        degree = self.degrees()
        return float((degree > 0).double().mean()) if len(degree) else 0.0

    def mean_degree(self) -> float:
        """Mean number of neighbours per row."""
        return len(self.indices) / max(len(self.indptr) - 1, 1)

    def edges(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The edges of some rows.

        Args:
            rows: (B,) int64 row numbers, repeats allowed.

        Returns:
            (E,) position in `rows` and (E,) neighbour, for every edge.
        """
        position, place = spans(self.indptr[rows], self.indptr[rows + 1])
        return position, self.indices[place]


def neighbour_graphs(a: Tensor, b: Tensor | None, k: int, mutual: bool = True) -> tuple[Graph, Graph]:
    """Neighbour graphs a -> b and b -> a.

    (i, j) is an edge iff j is among i's top k in b and, with `mutual`, i among j's top k in a (DUDE, sec. 3.3). The k
    most similar are meant by inner product; of equal ones the smaller row number comes first.

    Args:
        a: (N, D) unit rows.
        b: (M, D) unit rows, or None for neighbours inside `a`, self excluded.
        k: neighbours per row before the mutual filter.
        mutual: keep only pairs that name each other.
    """
    one = alike(Rows.all(a))
    there = Nearest(len(a), k, a.device)
    if b is None:
        search(one, there)
        return graphs(by_slot(there.codes(), one), None, mutual)
    two, back = alike(Rows.all(b)), Nearest(len(b), k, b.device)
    search(one, there, two, back)
    return graphs(by_slot(there.codes(), one), by_slot(back.codes(), two), mutual)


def graphs(there: Tensor, back: Tensor | None, mutual: bool = True) -> tuple[Graph, Graph]:
    """The graphs of both directions from the rows' lists.

    Args:
        there: (N, k) codes of the rows' neighbours.
        back: (M, k) codes of the neighbours' neighbours; None: they are the same rows.
        mutual: keep only pairs that name each other.
    """
    forth = _graph(there.cpu(), (there if back is None else back).cpu(), mutual)
    return forth, forth if back is None else _graph(back.cpu(), there.cpu(), mutual)


def _graph(there: Tensor, back: Tensor, mutual: bool) -> Graph:
    slots, degree = torch.empty_like(there), torch.empty(len(there), dtype=torch.int64)

    def one(first: int) -> None:
        some = slice(first, first + _BLOCK)
        found = slots_of(there[some])
        kept = returned(there[some], back[:, -1], first) if mutual else found >= 0
        # On a CPU numpy sorts several times faster than torch.
        ascending = np.sort(torch.where(kept, found, _LAST).numpy(), axis=1)
        slots[some], degree[some] = torch.from_numpy(ascending), kept.sum(1)

    each(one, range(0, len(there), _BLOCK))
    indptr = torch.zeros(len(there) + 1, dtype=torch.int64)
    indptr[1:] = degree.cumsum(0)
    return Graph(indptr, slots[slots < _LAST])


def returned(there: Tensor, last: Tensor, first: int = 0) -> Tensor:
    """Which of the lists' neighbours have the row itself in their lists, (N, k) bool, without a look into those.

    A pair has the same score from both sides, so it stands in the neighbour's list if it is no worse than its end. In
    approximate lists too, if whatever was compared was compared from both sides.

    Args:
        there: (N, k) codes.
        last: (M,) the last codes of the neighbours' lists.
        first: slot of row 0; the others follow.
    """
    slot = slots_of(there)
    if len(last) == 0:
        return slot >= 0
    row = torch.arange(first, first + len(there), device=there.device)[:, None]
    return (slot >= 0) & (seen_from(there, row) >= last[slot])


def spans(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers of the half-open spans (B,), as (E,) the span's position and (E,) the number."""
    length = stop - start
    position = torch.repeat_interleave(torch.arange(len(start)), length)
    first = torch.repeat_interleave(length.cumsum(0) - length, length)
    return position, start[position] + torch.arange(len(position)) - first
