"""Which pairs of rows may be wanted, by a product that errs a little; and their scores, pair by pair, in full.

Where a CPU has instructions for bfloat16, a product of such numbers is several times as fast as one of float32. How far
it can err is known from the rows' lengths and what rounding took from them, so every pair that could be wanted is
seen, and only those are scored in full: what is found is exact. The score of a pair is that of its two rows alone, to
the bit: equal keys tie, and shards find what one process finds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from threading import local

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.bfloat16 import fast_bfloat16

_CROWDED = 0.03  # share of pairs above which scoring them takes longer than a float32 product that errs less
_SHAPE = 64  # products have a multiple of so many rows and columns
_NEVER = -128  # minus infinity of bfloat16, seen as a whole number
_MANY = 2**20  # pairs
_LINES = 512  # of a tile at once, which the cache holds
# Numbers gathered at once. On a CPU more would be fresh memory each time, several times as slow.
_PIECE = 2**18
_GPU_PIECE = 2**26


@dataclass(frozen=True)
class Screened:
    """Rows (N, D) float32 with what tells how far their products may err.

    `rounded`: (N, D) bfloat16; None: products are of float32. `norm` (N,): lengths; `error` (N,): lengths of what
    rounding took. The rows themselves, which are rarely asked for, are `source[which]`.
    """

    source: Tensor
    which: slice | Tensor
    rounded: Tensor | None
    norm: Tensor
    error: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> "Screened":
        """Of rows (N, D).

        Raises:
            ValueError: a vector is not finite, or so long or short that squares leave float32.
        """
        norm, whole = vectors.norm(dim=1), slice(0, len(vectors))
        if not bool(((norm == 0) | ((norm > 1e-15) & (norm < 1e15))).all()):
            raise ValueError("vectors to search must be finite, and of length 0 or between 1e-15 and 1e15")
        if not fast_bfloat16(vectors.device):  # on a GPU: not tried
            return cls(vectors, whole, None, norm, torch.zeros_like(norm))
        near, error = vectors.bfloat16(), torch.empty_like(norm)
        for first in range(0, len(vectors), _LINES):
            some = slice(first, first + _LINES)
            error[some] = (vectors[some] - near[some].float()).norm(dim=1)
        return cls(vectors, whole, near, norm, error)

    def some(self, which: slice | Tensor) -> "Screened":
        """Some of all rows."""
        rounded = None if self.rounded is None else self.rounded[which]
        return Screened(self.source, which, rounded, self.norm[which], self.error[which])

    def unrounded(self) -> "Screened":
        return replace(self, rounded=None, error=torch.zeros_like(self.error))

    def __len__(self) -> int:
        return len(self.norm)


class Space(local):
    """Memory for one tile at a time in each thread: fresh memory would cost as much as the product."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: dict[torch.dtype, Tensor] = {}

    def take(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of any content, valid until the thread's next call for its type."""
        size = int(np.prod(shape))
        memory = self._memory.get(dtype)
        if memory is None or size > len(memory):
            memory = self._memory[dtype] = torch.empty(size, dtype=dtype, device=self._device)
        return memory[:size].view(shape)


class Tile:
    """Products of all rows of `a` with all of `b`, (n, m), valid until the next tile in the same space."""

    def __init__(self, a: Screened, b: Screened, space: Space) -> None:
        self._a, self._b, self._space = a, b, space
        self._left_out: list[tuple[Tensor | slice, Tensor | slice]] = []
        n, m = len(a), len(b)
        self._rounded = a.rounded is not None and b.rounded is not None
        if a.rounded is not None and b.rounded is not None:
            left, right = _padded(a.rounded), _padded(b.rounded)
            tile = torch.mm(left, right.T, out=space.take(len(left), len(right), dtype=torch.bfloat16))
            # As whole numbers, which are compared many times faster, positive ones have the same order.
            self._values = tile.view(torch.int16)[:n, :m]
        else:
            self._values = torch.mm(a.source[a.which], b.source[b.which].T, out=space.take(n, m))
        self._margin = _margin(a, b), _margin(b, a)

    def leave_out(self, row: Tensor | slice, column: Tensor | slice) -> None:
        """Pairs that are not wanted: (E,) rows and (E,) columns, or slices."""
        self._left_out.append((row, column))
        self._values[row, column] = _NEVER if self._rounded else float("-inf")

    def floor(self, k: int, columns: bool = False) -> Tensor | None:
        """What the k-th best score of each row, or column, reaches at least; None if nothing can be said."""
        values = self._values.T if columns else self._values
        size = values.shape[1] // (2 * k)
        if values.shape[1] < k or k < 1:
            return None
        if size > 1:  # k groups have a best: k are as good
            groups = values.shape[1] // size
            values = _largest_of(values[:, : size * groups].unflatten(1, (size, groups)))
        if self._rounded:
            values = values.contiguous().view(torch.bfloat16).float()
            values = values - values.abs() * 2**-8  # what rounding the product may have added
        best = values.topk(k, dim=1).values[:, -1] - self._margin[columns]
        return best.clamp(min=torch.finfo(torch.float32).min)

    def unrounded(self) -> "Tile":
        """The same products of float32; this tile then holds no more."""
        whole = Tile(self._a.unrounded(), self._b.unrounded(), self._space)
        for pairs in self._left_out:
            whole.leave_out(*pairs)
        return whole

    def reaching(self, rows: Tensor, columns: Tensor | None) -> Iterator[tuple[Tensor, Tensor]] | None:
        """All pairs whose score may be `rows` (n,) or more, or `columns` (m,) or more, by ascending row.

        Returns:
            In pieces, (E,) row and (E,) column; others too, but few. None: rounded products can't tell few from many,
            and those of float32 are to be asked.
        """
        floors = [rows - self._margin[0]] + ([] if columns is None else [columns - self._margin[1]])
        if not self._rounded:
            return _joined(self._parts(floors))
        if not all(map(_positive, floors)):  # the order of others is another
            return None
        found, count = [], 0
        for part in self._parts([_rounded(floor) for floor in floors]):
            found.append(part)
            count += len(part[0])
            if count > _CROWDED * self._values.numel():
                return None
        return _joined(iter(found))

    def _parts(self, floors: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self._values), _LINES):
            part, own = self._values[first : first + _LINES], floors[0][first : first + _LINES, None]
            if part.device.type != "cpu":
                mask = part >= own
                row, column = (mask if len(floors) == 1 else mask | (part >= floors[1])).nonzero(
                    as_tuple=True
                )
            else:
                either, also = self._space.take(2, *part.shape, dtype=torch.bool).numpy()
                np.greater_equal(part.numpy(), own.numpy(), out=either)
                if len(floors) > 1:
                    np.greater_equal(part.numpy(), floors[1].numpy(), out=also)
                    np.logical_or(either, also, out=either)
                place = torch.from_numpy(np.flatnonzero(either))
                row = place // part.shape[1] if part.shape[1] else place
                column = place - row * part.shape[1]
            yield row + first, column


def _joined(parts: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Fewer pieces, of about a million pairs at most."""
    held: list[tuple[Tensor, Tensor]] = []
    for part in parts:
        held.append(part)
        if sum(len(row) for row, _ in held) > _MANY:
            yield torch.cat([row for row, _ in held]), torch.cat([column for _, column in held])
            held = []
    if held:
        yield torch.cat([row for row, _ in held]), torch.cat([column for _, column in held])


def dots(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> Tensor:
    """The scores of pairs (E,) of rows of (n, D) and (m, D), each computed by itself, either way round."""
    piece = max(1, (_PIECE if a.device.type == "cpu" else _GPU_PIECE) // max(a.shape[1], 1))
    found = torch.empty(len(i), device=a.device)
    for first in range(0, len(i), piece):
        some = slice(first, first + piece)
        x, y = a.index_select(0, i[some]), b.index_select(0, j[some])
        if x.device.type == "cpu":
            found[some] = torch.from_numpy(np.vecdot(x.numpy(), y.numpy()))
        else:  # always as many rows, which otherwise decide how a GPU sums
            pad = (0, 0, 0, piece - len(x))
            whole = torch.nn.functional.pad(x, pad) * torch.nn.functional.pad(y, pad)
            found[some] = whole.sum(1)[: len(x)]
    return found


def _margin(a: Screened, b: Screened) -> Tensor:
    """(n,): how far the products of a row of `a` with any of `b` can be from what `dots` says.

    |a b - a' b'| <= |a - a'| |b| + |a'| |b - b'|. Besides, each sum of D products in float32, of which `dots` is one,
    errs by D 2^-24 |a| |b|, or where numbers are too small for float32 by D times the smallest. So among rows that are
    alike to D 2^-23 all pairs are scored one by one, which takes its time.
    """
    terms, most = a.source.shape[1], a.norm * _largest(b.norm)
    rounding = 1.001 * (a.error * _largest(b.norm) + (a.norm + a.error) * _largest(b.error))
    if a.source.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        rounding = rounding + 2**-9 * most  # both factors are cut to 10 bits
    return rounding + (terms + 2) * 2**-23 * most + terms * 2**-124


def _padded(rows: Tensor) -> Tensor:
    """With zeros up to a multiple of 64: code is generated for every shape of a product, which takes its time."""
    return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _SHAPE)) if len(rows) % _SHAPE else rows


def _largest_of(values: Tensor) -> Tensor:
    """Along the middle one of three dimensions. On a CPU numpy is faster with whole numbers."""
    if values.device.type == "cpu" and values.dtype == torch.int16:
        return torch.from_numpy(np.maximum.reduce(values.numpy(), axis=1))
    return values.amax(1)


def _largest(values: Tensor) -> Tensor:
    return values.amax() if len(values) else values.new_zeros(())


def _positive(values: Tensor) -> bool:
    return len(values) > 0 and float(values.amin()) > 0


def _rounded(values: Tensor) -> Tensor:
    """Positive numbers as products are rounded, seen as whole numbers: what reached them does so rounded, too."""
    return values.bfloat16().view(torch.int16)
