"""Exact mutual k-nearest neighbours, blocked: memory grows with rows x k, never rows x rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1024
# From 16 rows on, torch's matrix product rounds a score alike wherever its row stands: equal keys tie.
_ROW_MULTIPLE = 16


@dataclass(frozen=True)
class Graph:
    """Neighbours of each query row as compressed rows (CSR): row i's are `indices[indptr[i]:indptr[i + 1]]`."""

    indptr: Tensor  # (N + 1,) int64
    indices: Tensor  # (edges,) int64, ascending inside a row

    def share(self) -> float:
        """Share of rows with at least one neighbour, in [0, 1]."""
        degree = self.indptr.diff()
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
        start, degree = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        position = torch.repeat_interleave(torch.arange(len(rows)), degree)
        first = torch.repeat_interleave(degree.cumsum(0) - degree, degree)
        return position, self.indices[start[position] + torch.arange(len(position)) - first]


def top_k(queries: Tensor, keys: Tensor, k: int, exclude_self: bool = False) -> Tensor:
    """The k most similar keys of each query, by inner product; ties go to the smaller slot.

    Args:
        queries: (N, D) unit rows.
        keys: (M, D) unit rows.
        k: neighbours wanted; fewer come back where fewer keys exist.
        exclude_self: row i of `queries` is row i of `keys` and doesn't count.

    Returns:
        (N, min(k, available)) int64, most similar first. Cost grows as N * M * D, memory as BLOCK * M.
    """
    k = min(k, len(keys) - int(exclude_self))
    found = [torch.empty(0, max(k, 0), dtype=torch.int64)]
    if k <= 0:
        return torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        padded = torch.nn.functional.pad(block, (0, 0, 0, -len(block) % _ROW_MULTIPLE))
        score = (padded @ keys.T)[: len(block)]
        if exclude_self:
            own = torch.arange(len(score))
            score[own, own + start] = float("-inf")
        found.append(_top_columns(score, k))
    return torch.cat(found)


def _top_columns(score: Tensor, k: int) -> Tensor:
    """Columns of the k largest entries of each row, largest first, smaller column first among equals."""
    value, column = score.topk(k, dim=1)
    # topk may take any of several equal entries: where equals straddle the k-th place, sort the whole row.
    tied = (score >= value[:, -1:]).sum(dim=1) > k
    if tied.any():
        whole = score[tied].sort(dim=1, descending=True, stable=True)
        value[tied], column[tied] = whole.values[:, :k], whole.indices[:, :k]
    column, by_column = column.sort(dim=1)
    by_value = value.gather(1, by_column).sort(dim=1, descending=True, stable=True).indices
    return column.gather(1, by_value).cpu()


def _graph(row: Tensor, column: Tensor, rows: int, columns: int) -> Graph:
    code = (row * columns + column).sort().values
    indptr = torch.zeros(rows + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(code // max(columns, 1), minlength=rows).cumsum(0)
    return Graph(indptr, code % max(columns, 1))


def neighbour_graphs(a: Tensor, b: Tensor | None, k: int, mutual: bool = True) -> tuple[Graph, Graph]:
    """Neighbour graphs a -> b and b -> a.

    (i, j) is an edge iff j is among i's top k in b and, with `mutual`, i among j's top k in a (DUDE, sec. 3.3).

    Args:
        a: (N, D) unit rows.
        b: (M, D) unit rows, or None for neighbours inside `a`, self excluded.
        k: neighbours per row before the mutual filter.
        mutual: keep only pairs that name each other.
    """
    there = top_k(a, a if b is None else b, k, exclude_self=b is None)
    back = there if b is None else top_k(b, a, k)
    rows, columns = len(a), len(a if b is None else b)
    row = torch.arange(rows).repeat_interleave(there.shape[1])
    column = there.reshape(-1)
    back_row = torch.arange(columns).repeat_interleave(back.shape[1])
    back_column = back.reshape(-1)
    if mutual:
        forward, backward = row * columns + column, back_column * columns + back_row
        both = forward[torch.isin(forward, backward)]
        row, column = both // max(columns, 1), both % max(columns, 1)
        back_row, back_column = column, row
    return _graph(row, column, rows, columns), _graph(back_row, back_column, columns, rows)
