"""Mutual k-nearest neighbours as sparse graphs: memory grows with rows x k, never rows x rows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.neighbors.nearest import Nearest, slots_of
from ucdr_ray.neighbors.search import Rows, search


@dataclass(frozen=True)
class Graph:
    """Neighbours of each query row as compressed rows (CSR): row i's are `indices[indptr[i]:indptr[i + 1]]`."""

    indptr: Tensor  # (N + 1,) int64
    indices: Tensor  # (edges,) int64, ascending inside a row

    @classmethod
    def of(cls, pairs: Tensor, rows: int, columns: int) -> "Graph":
        """The graph of ascending `pairs`, i * columns + j for an edge from row i to column j."""
        row = pairs // max(columns, 1)
        indptr = torch.zeros(rows + 1, dtype=torch.int64)
        indptr[1:] = torch.bincount(row, minlength=rows).cumsum(0)
        return cls(indptr, pairs - row * columns)

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


def spans(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers of the half-open spans (B,), as (E,) the span's position and (E,) the number."""
    length = stop - start
    position = torch.repeat_interleave(torch.arange(len(start)), length)
    first = torch.repeat_interleave(length.cumsum(0) - length, length)
    return position, start[position] + torch.arange(len(position)) - first


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
    there = Nearest(len(a), k, a.device)
    back = there if b is None else Nearest(len(b), k, b.device)
    search(Rows.all(a), there, None if b is None else Rows.all(b), None if b is None else back)
    return graphs(there.codes(), None if b is None else back.codes(), mutual)


def graphs(there: Tensor, back: Tensor | None, mutual: bool = True) -> tuple[Graph, Graph]:
    """The graphs of both directions from the rows' lists, exact or not.

    Args:
        there: (N, k) codes of the rows' neighbours.
        back: (M, k) codes of the neighbours' neighbours; None: they are the same rows.
        mutual: keep only pairs that name each other.
    """
    rows, columns = len(there), len(there if back is None else back)
    forward = pairs(slots_of(there), 0, columns)
    backward = forward if back is None else pairs(slots_of(back), 0, rows)
    if mutual:
        forward = common(forward, flipped(backward, rows, columns))
        backward = forward if back is None else ascending(flipped(forward, columns, rows))
    forth = Graph.of(ascending(forward), rows, columns)
    return forth, forth if back is None else Graph.of(ascending(backward), columns, rows)


def pairs(found: Tensor, first: int, columns: int) -> Tensor:
    """Every (row, neighbour) of lists as one number, i * columns + j.

    Args:
        found: (N, k) int64 slots, -1 for none.
        first: slot of row 0; the others follow.
        columns: rows of the neighbours' domain.
    """
    neighbour = found.cpu().numpy()
    row = np.arange(first, first + len(neighbour))[:, None]
    return torch.from_numpy((row * columns + neighbour)[neighbour >= 0])


def flipped(pairs: Tensor, columns: int, flipped_columns: int) -> Tensor:
    """i * columns + j -> j * flipped_columns + i."""
    row = pairs // max(columns, 1)
    return (pairs - row * columns) * flipped_columns + row


def ascending(pairs: Tensor) -> Tensor:
    """Sorted; here as in `pairs` and `common` numpy is several times faster than torch on a CPU."""
    return torch.from_numpy(np.sort(pairs.numpy()))


def common(a: Tensor, b: Tensor) -> Tensor:
    """What stands in both, ascending; neither names anything twice."""
    both = ascending(torch.cat([a, b])).numpy()
    return torch.from_numpy(both[1:][both[1:] == both[:-1]])
