"""The k best keys of every row, kept up to date while scores come by in any order."""

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.threads import each

_LISTS = 4096  # sorted at once
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


def seen_from(codes: Tensor, slots: Tensor) -> Tensor:
    """The codes with other slots: from what i's list has for j, what j's has for i. Nothing can be said of no code."""
    return (codes & ~_SLOT) | (_SLOT - slots)


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

    def floor(self, rows: slice) -> Tensor:
        """The scores that new keys of the rows must reach to be wanted; what is lower need not be offered."""
        return self._floor[rows]

    def empty(self, rows: slice) -> bool:
        """Whether nothing is known of what the rows want."""
        return not bool((self._floor[rows] > _LOWEST).any())

    def expect(self, rows: slice, floor: Tensor) -> None:
        """That each of the rows will be offered k keys that reach `floor`: others are not wanted."""
        self._floor[rows] = torch.maximum(self._floor[rows], floor)

    def offer(self, rows: slice, row: Tensor, score: Tensor, slot: Tensor) -> None:
        """Offer keys to some of `rows`.

        Args:
            row: (E,) for whom, numbers inside `rows`.
            score, slot: (E,) float32 and int64, of the keys.
        """
        wanted = _where(score >= self._floor[rows].index_select(0, row))
        row, order = _ascending(row.index_select(0, wanted), rows.stop - rows.start)
        wanted = wanted.index_select(0, order)
        self._insert(rows, row, code(score.index_select(0, wanted), slot.index_select(0, wanted)))

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
        if self._codes.device.type != "cpu":
            return _best(self._codes, self.k)
        found = self._codes.new_empty(len(self._codes), self.k)

        def one(first: int) -> None:
            found[first : first + _LISTS] = _best(self._codes[first : first + _LISTS], self.k)

        each(one, range(0, len(found), _LISTS))
        return found

    def _insert(self, rows: slice, row: Tensor, new: Tensor) -> None:
        """Append codes to the lists of `row`, ascending numbers inside `rows`."""
        codes, count = self._codes[rows], self._count[rows]
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


# On a CPU, numpy does these three several times faster than torch.


def _ascending(numbers: Tensor, below: int) -> tuple[Tensor, Tensor]:
    """Sorted, and where each stood, of numbers from 0 to `below`."""
    if numbers.device.type == "cpu":
        kind = np.uint16 if below <= 2**16 else np.int64  # the short ones take a tenth of the time
        order = torch.from_numpy(np.argsort(numbers.numpy().astype(kind), kind="stable"))
        return numbers.index_select(0, order), order
    found = numbers.sort(stable=True)
    return found.values, found.indices


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
