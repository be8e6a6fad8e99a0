"""The k best keys of every row, kept up to date while tiles of scores come by in any order.

Of a tile, first the largest score of each group of 32 is taken. Only groups that beat the row's k-th best so far are
looked into: soon they are few.
"""

import numpy as np
import torch
from torch import Tensor

GROUP = 32  # tiles have a multiple of this many rows and columns
_ROOM = 32  # candidates that wait in a list before it is cut to k again
_EMPTY = -(2**63)
_SLOT = 0xFFFFFFFF
_LOWEST = torch.finfo(torch.float32).min


def code(score: Tensor, slot: Tensor) -> Tensor:
    """One int64 for a float32 score and a slot in [0, 2^32 - 1): larger is better, of equal scores the smaller slot."""
    bits = (score + 0.0).view(torch.int32).to(torch.int64)  # -0.0 becomes 0.0, to which it is equal
    return (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32) | (_SLOT - slot)


def slots_of(codes: Tensor) -> Tensor:
    """The slots in codes, -1 where there is none."""
    return torch.where(codes == _EMPTY, -1, _SLOT - (codes & _SLOT))


def scores_of(codes: Tensor) -> Tensor:
    """The float32 scores in codes; NaN where there is none."""
    bits = (codes >> 32).to(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)


class Nearest:
    """The best k of each of some rows.

    Args:
        rows: how many lists.
        k: length of a list; shorter where fewer keys were seen.

    Takes 8 (k + 32) bytes a row. Different rows may be added to by different threads at the same time.
    """

    def __init__(self, rows: int, k: int, device: torch.device | str = "cpu") -> None:
        self.k, self._width = k, k + _ROOM
        self._codes = torch.full((rows, self._width), _EMPTY, device=device)
        self._count = torch.zeros(rows, dtype=torch.int64, device=device)
        # Score of the k-th best: what is lower need not be looked at. Minus infinity is never wanted.
        self._floor = torch.full((rows,), _LOWEST, device=device)

    def add_rows(self, rows: slice, tile: Tensor, slots: Tensor) -> None:
        """Offer each of `rows` the keys of the tile's columns.

        Args:
            tile: (R, C) float32 contiguous, R >= rows, C a multiple of 32; minus infinity: not to be taken.
            slots: (C,) int64, the columns' slots.
        """
        count, groups = rows.stop - rows.start, tile.shape[1] // GROUP
        tile = tile[:count]
        best = tile.view(count, groups, GROUP).amax(2)
        floor = self._raised(rows, best, tile)
        hit = _where(best >= floor[:, None])
        row = hit // groups
        near = tile.view(-1, GROUP).index_select(0, hit)
        found = _where(near >= floor.index_select(0, row)[:, None])
        which = found >> 5
        column = ((hit - row * groups) << 5).index_select(0, which) + (found & 31)
        score = near.view(-1).index_select(0, found)
        self._insert(rows, row.index_select(0, which), score, slots.index_select(0, column))

    def add_columns(self, rows: slice, tile: Tensor, slots: Tensor) -> None:
        """Offer each of `rows`, which are the tile's columns, the keys of the tile's rows.

        Args:
            tile: (R, C) float32 contiguous, R a multiple of 32, C >= rows.
            slots: (R,) int64, the tile rows' slots.
        """
        count, (height, width) = rows.stop - rows.start, tile.shape
        groups = height // GROUP
        # Scores of a column lie in a cache line each: first find which eight of a good group of 32 it is.
        eights = tile.view(height // 8, 8, width).amax(1)
        best = eights.view(groups, GROUP // 8, width).amax(1)[:, :count].T.contiguous()
        floor = self._raised(rows, best, tile[:, :count].T)
        hit = _where(best >= floor[:, None])
        row = hit // groups
        row, eight, _ = _down(eights, row, hit - row * groups, 2, floor)
        row, line, score = _down(tile, row, eight, 3, floor)
        self._insert(rows, row, score, slots.index_select(0, line))

    def merge(self, codes: Tensor) -> None:
        """Offer each row what another search found for it: (rows, n) codes of other keys."""
        both = torch.cat([self._codes, codes.to(self._codes.device)], dim=1)
        self._codes[:, : self.k] = _best(both, self.k)
        self._codes[:, self.k :] = _EMPTY
        last = self._codes[:, self.k - 1]
        self._count = (self._codes != _EMPTY).sum(1)
        self._floor = torch.where(last == _EMPTY, self._floor, scores_of(last))

    def codes(self) -> Tensor:
        """(rows, k) int64, best first; `slots_of` and `scores_of` read them."""
        return _best(self._codes, self.k)

    def _raised(self, rows: slice, best: Tensor, tile: Tensor) -> Tensor:
        """The rows' floors. Where nothing is kept yet, a first one: k groups have a best, so k keys are as good."""
        among = best if self.k <= best.shape[1] else tile
        if self.k <= among.shape[1] and not bool(self._count[rows].any()):
            first = among.topk(self.k, dim=1).values[:, -1].clamp(min=_LOWEST)
            self._floor[rows] = torch.maximum(self._floor[rows], first)
        return self._floor[rows]

    def _insert(self, rows: slice, row: Tensor, score: Tensor, slot: Tensor) -> None:
        """Append (score, slot) to the lists of `row`, ascending numbers inside `rows`."""
        codes, count = self._codes[rows], self._count[rows]
        new = code(score, slot)
        while True:
            coming = torch.bincount(row, minlength=len(count))
            first = count - (coming.cumsum(0) - coming)
            place = first.index_select(0, row) + torch.arange(len(row), device=row.device)
            fits = place < self._width
            if bool(fits.all()):
                codes.view(-1).scatter_(0, row * self._width + place, new)
                count += coming
                return
            codes.view(-1).scatter_(0, (row * self._width + place)[fits], new[fits])
            count += torch.bincount(row[fits], minlength=len(count))
            self._cut(codes, count, self._floor[rows])
            left = ~fits
            row, new = row[left], new[left]
            wanted = new > codes[:, self.k - 1].index_select(0, row)
            row, new = row[wanted], new[wanted]

    def _cut(self, codes: Tensor, count: Tensor, floor: Tensor) -> None:
        """Cut lists to their best k, in place, and raise the floors of the full ones."""
        codes[:, : self.k] = _best(codes, self.k)
        codes[:, self.k :] = _EMPTY
        count.clamp_(max=self.k)
        last = codes[:, self.k - 1]
        torch.where(last == _EMPTY, floor, scores_of(last), out=floor)


def _down(
    values: Tensor, column: Tensor, group: Tensor, bits: int, floor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From groups of 2^bits lines of `values` (L, W) to their single lines: those that reach the column's floor."""
    size, width = 1 << bits, values.shape[1]
    lines = torch.arange(size, device=values.device) * width
    place = (group * (size * width) + column)[:, None] + lines
    near = values.view(-1).index_select(0, place.view(-1)).view(place.shape)
    hit = _where(near >= floor.index_select(0, column)[:, None])
    which = hit >> bits
    line = (group << bits).index_select(0, which) + (hit & (size - 1))
    return column.index_select(0, which), line, near.view(-1).index_select(0, hit)


# On a CPU, numpy does these two several times faster than torch.


def _where(mask: Tensor) -> Tensor:
    """Places of the true ones in the flattened mask, ascending."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero().view(-1)


def _best(codes: Tensor, k: int) -> Tensor:
    """The k largest of each row, largest first."""
    if codes.device.type == "cpu":
        return torch.from_numpy(np.sort(codes.numpy(), axis=1)[:, : -k - 1 : -1].copy())
    return codes.topk(k, dim=1).values
