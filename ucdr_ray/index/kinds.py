"""The kinds of approximate search in a shard. FAISS makes each; none but their candidates is taken from it.

All rank by dot product of unit vectors. Cells and codes are learnt from rows of all domains: cells that were learnt
on one domain alone lead the queries of another astray.

| kind     | what it holds of N rows of d numbers           | a search compares with         |
|----------|------------------------------------------------|--------------------------------|
| ivf-flat | the vectors once more: 4 d N bytes             | the rows of the nearest cells  |
| ivf-sq8  | a byte a number: d N bytes                     | the same                       |
| ivf-pq   | half a byte for two numbers: d N / 4 bytes     | the same, by table look-up     |
| hnsw     | a graph, 270 bytes a row, and 2 d N bytes      | what a walk to the query meets |
| binary   | a bit a number, its sign: d N / 8 bytes        | all rows, by differing bits    |

Hash codes, which are the signs of what a model says, lose nothing as "binary"; other features mostly do.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import faiss
import numpy as np

from ucdr_ray.errors import UserError

ApproximateKind = Literal["ivf-flat", "ivf-sq8", "ivf-pq", "hnsw", "binary"]
Kind = Literal["exact"] | ApproximateKind
APPROXIMATE: tuple[ApproximateKind, ...] = get_args(ApproximateKind)
SMALLEST = 1_000  # rows; below, comparing with all of them is as fast
K = 10  # recall is asked for, and measured, of as many rows
FETCHES = {
    "ivf-flat": (1,),
    "hnsw": (1, 4),
    "ivf-sq8": (2, 8),
    "ivf-pq": (4, 16, 64),
    "binary": (1, 4, 16, 64),
}
UNTAUGHT = ("hnsw", "binary")  # have nothing to learn before they are filled

_LINKS = 32  # of a row in the graph; FAISS's own choice
_EFFORT_OF_BUILDING = 80
_ROWS_PER_CELL = 64  # that a cell is learnt from
_FEWEST_PER_CELL = 39  # below, FAISS warns


class Effort(NamedTuple):
    """How hard to search: see `ucdr_ray.index.manifest.Approximate`."""

    effort: int
    fetch: int


def cells(rows: int) -> int:
    """Cells for a shard: the power of two next to 4 √rows, so that few different numbers occur, each learnt once."""
    return int(min(2 ** round(np.log2(4 * np.sqrt(rows))), max(1, rows // _FEWEST_PER_CELL)))


AnyIndex: TypeAlias = faiss.Index | faiss.IndexBinary


def untaught(kind: ApproximateKind, dim: int) -> AnyIndex:
    """An empty index of a kind that has nothing to learn."""
    if kind == "binary":
        return faiss.IndexBinaryFlat(_bits(dim))
    # Half as long numbers: a walk reads rows all over memory, and takes a quarter less time with them.
    index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_bf16, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EFFORT_OF_BUILDING
    return index


def learnt(kind: ApproximateKind, dim: int, count: int, sample: np.ndarray) -> faiss.Index:
    """An empty index of any other kind, with cells and codes.

    Args:
        count: cells.
        sample: float32 (n, dim) unit rows of all domains, shuffled, `sample_size` of them if there are as many.
    """
    codes = {"ivf-flat": "Flat", "ivf-sq8": "SQ8", "ivf-pq": f"PQ{dim // 2 if dim % 2 == 0 else dim}x4fs"}
    index = faiss.index_factory(dim, f"IVF{count},{codes[kind]}", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = _ROWS_PER_CELL
    index.train(sample[: sample_size(count)])
    return index


def sample_size(count: int) -> int:
    """Rows to learn ``count`` cells from."""
    return max(count * _ROWS_PER_CELL, 4096)


def add(index: AnyIndex, rows: np.ndarray) -> None:
    """Put float32 (n, dim) unit rows behind those that are there."""
    index.add(_signs(rows) if isinstance(index, faiss.IndexBinary) else rows)


def candidates(
    kind: ApproximateKind,
    index: AnyIndex,
    queries: np.ndarray,
    fetch: int,
    effort: int,
    only: faiss.IDSelector | None = None,
) -> np.ndarray:
    """The rows that look nearest to float32 (Q, dim) unit rows: int64 (Q, fetch), -1 where there are no more.

    What is special to a search goes with it: the index itself is never changed.

    Args:
        only: rows that may be found; all without it.
    """
    effort = max(effort, fetch) if kind == "hnsw" else effort
    asked = _without_rows_left_out(kind, effort) if only is None else _asked(kind, effort)
    if only is not None:
        asked.sel = only
    return np.asarray(index.search(_signs(queries) if kind == "binary" else queries, fetch, params=asked)[1])


def _asked(kind: ApproximateKind, effort: int) -> faiss.SearchParameters:
    if kind == "binary":
        return faiss.SearchParameters()
    if kind == "hnsw":
        asked = faiss.SearchParametersHNSW()
        asked.efSearch = effort
    else:
        asked = faiss.SearchParametersIVF()
        asked.nprobe = effort
    return asked


_without_rows_left_out = lru_cache(64)(_asked)  # making one takes a tenth of a search


def _bits(dim: int) -> int:
    """Of a code: whole bytes."""
    return (dim + 7) // 8 * 8


def _signs(rows: np.ndarray) -> np.ndarray:
    return np.packbits(rows > 0, axis=1)


def emptied(path: Path) -> faiss.Index:
    """What `learnt` made, or a shard was searched with, without its rows."""
    index = faiss.read_index(str(path))
    index.reset()
    return index


def write(index: AnyIndex, path: Path) -> None:
    """To a file."""
    (faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index)(
        index, str(path)
    )


def read(path: Path, kind: ApproximateKind, rows: int, dim: int) -> AnyIndex:
    """An index of ``rows`` rows of ``dim`` numbers, from a file whose checksum was verified.

    Raises:
        UserError: it is of another kind or size.
    """
    types: dict[str, Any] = {
        "ivf-flat": faiss.IndexIVFFlat,
        "ivf-sq8": faiss.IndexIVFScalarQuantizer,
        "ivf-pq": faiss.IndexIVFPQFastScan,
        "hnsw": faiss.IndexHNSWSQ,
        "binary": faiss.IndexBinaryFlat,
    }
    try:
        index = (faiss.read_index_binary if kind == "binary" else faiss.read_index)(str(path))
    except RuntimeError:
        raise UserError(f"bad index shard {path}: not a FAISS index") from None
    size = (rows, _bits(dim) if kind == "binary" else dim)
    if not isinstance(index, types[kind]) or (index.ntotal, index.d) != size:
        raise UserError(f"bad index shard {path}: not an {kind} index of {rows} × {dim}")
    return index


def in_memory(kind: ApproximateKind, size: int) -> int:
    """Bytes that so many of a file take once they are read: cells of "ivf-pq" grow to powers of two of blocks."""
    return round(1.07 * size) if kind == "ivf-pq" else size


def most_effort(kind: ApproximateKind, index: AnyIndex) -> int:
    """From where more effort changes nothing (cells, codes), or is not worth it (a walk)."""
    if kind == "binary":
        return 1
    return int(min(index.ntotal, 4096) if kind == "hnsw" else index.nlist)
