"""How many of the mutual neighbours an approximate search found, measured against exact search on random rows."""

from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.neighbors.nearest import Nearest, code, scores_of, slots_of
from ucdr_ray.neighbors.screen import Screened, Space, Tile, dots
from ucdr_ray.neighbors.search import Rows, search, side
from ucdr_ray.threads import each

_SAMPLED = 256  # rows whose exact neighbours are searched
_CHECKED = 256  # pairs of those found, and as many of the others, of which is counted whether they are mutual


@dataclass(frozen=True)
class Recall:
    """`share` of the mutual neighbours that were found, 0..1, NaN where the sample has none; it rests on `pairs`."""

    share: float
    pairs: int


class Side(Protocol):
    """A domain with the approximate lists of its rows, wherever these lie. Slots may come in any order, repeatedly."""

    @property
    def rows(self) -> int:
        """How many."""
        ...

    def vectors(self, slots: Tensor) -> Tensor:
        """(E, D): the rows."""
        ...

    def lists(self, slots: Tensor) -> Tensor:
        """(E, k) codes: their lists."""
        ...

    def nearest(self, queries: Rows, k: int) -> Tensor:
        """(Q, k) codes: for each query the nearest of all rows, by exact search."""
        ...

    def nearer(self, keys: Tensor, score: Tensor, slot: Tensor, own: Tensor | None) -> Tensor:
        """As `nearer`, of all rows."""
        ...


@dataclass(frozen=True)
class Here:
    """A domain with all its rows (N, D) and their lists (N, k) in one place."""

    source: Tensor
    codes: Tensor

    @property
    def rows(self) -> int:
        return len(self.source)

    def vectors(self, slots: Tensor) -> Tensor:
        return self.source[slots.to(self.source.device)]

    def lists(self, slots: Tensor) -> Tensor:
        return self.codes[slots.to(self.codes.device)]

    def nearest(self, queries: Rows, k: int) -> Tensor:
        best = Nearest(len(queries), k, self.source.device)
        search(queries, best, Rows.all(self.source))
        return best.codes()

    def nearer(self, keys: Tensor, score: Tensor, slot: Tensor, own: Tensor | None) -> Tensor:
        return nearer(keys, score, slot, own, Rows.all(self.source))


def mutual_recall(a: Side, b: Side | None, k: int, seed: int) -> Recall:
    """Measure it, at the cost of searching a few hundred rows exactly.

    Every mutual pair of a sampled row is among the row's exact neighbours, and it is mutual if fewer than k rows are
    nearer to the neighbour. That is counted for a part of the pairs, found and not found apart. No count is needed for
    a pair worse than what the neighbour's approximate list ends with.

    Args:
        a: the rows; b: their neighbours, None: neighbours inside `a`.
        k: length of the lists.
    """
    draw = np.random.default_rng(seed)
    rows = torch.from_numpy(draw.choice(a.rows, min(_SAMPLED, a.rows), replace=False))
    other = a if b is None else b
    vectors = a.vectors(rows)
    rows = rows.to(vectors.device)
    codes = other.nearest(Rows(vectors, rows), k + 1)
    if b is None:  # without itself; where it does not stand in the list, without the last
        itself = slots_of(codes) == rows[:, None]
        itself[:, -1] |= ~itself.any(1)
        codes = codes[~itself]
    else:
        codes = codes[:, :k].reshape(-1)
    real = slots_of(codes) >= 0
    place = torch.arange(len(rows), device=rows.device).repeat_interleave(k)[real]
    row, column, score = rows[place], slots_of(codes)[real], scores_of(codes)[real]
    lists = other.lists(column)
    found = (slots_of(a.lists(rows))[place] == column[:, None]).any(1)
    found &= (slots_of(lists) == row[:, None]).any(1)
    last = lists[:, -1]
    possible = found | (slots_of(last) < 0) | (score >= scores_of(last))

    def mutual(pairs: Tensor) -> float:
        """How many of the pairs, a mask, are mutual."""
        place = pairs.nonzero().view(-1)
        if len(place) == 0:
            return 0.0
        checked = place[torch.from_numpy(draw.permutation(len(place))[:_CHECKED]).to(place.device)]
        own = column[checked] if b is None else None
        count = a.nearer(other.vectors(column[checked]), score[checked], row[checked], own)
        return float((count < k).double().mean()) * len(place)

    kept, lost = mutual(found), mutual(possible & ~found)
    return Recall(kept / (kept + lost) if kept + lost else float("nan"), round(kept + lost))


def nearer(keys: Tensor, score: Tensor, slot: Tensor, own: Tensor | None, rows: Rows) -> Tensor:
    """How many of `rows` come before a certain row in the order of nearness to a key: (J,) int64.

    Counts of the parts of a domain add up to that of the whole.

    Args:
        keys: (J, D).
        score: (J,) float32, of the certain rows with the keys.
        slot: (J,) int64, of the certain rows: of equal scores the smaller slot comes first.
        own: (J,) int64, the keys' own slots where they are of the rows' domain; these do not count.
    """
    before = torch.zeros(len(keys), dtype=torch.int64, device=keys.device)
    space, lock, size = Space(keys.device), Lock(), side(keys.device)
    asked, known = Screened.of(keys), code(score, slot)

    def one(part: tuple[int, int]) -> None:
        some, these = slice(part[0], part[0] + size), slice(part[1], part[1] + size)
        vectors, slots = rows.vectors[these], rows.slots[these]
        tile = Tile(asked.some(some), Screened.of(vectors), space)
        pairs = tile.reaching(score[some], None)
        for key, column in tile.unrounded().reaching(score[some], None) or () if pairs is None else pairs:
            found = slots[column]
            ahead = code(dots(keys[some], key, vectors, column), found) > known[some][key]
            if own is not None:
                ahead &= found != own[some][key]
            with lock:
                before[some] += torch.bincount(key[ahead], minlength=len(keys[some]))

    parts = [(key, row) for key in range(0, len(keys), size) for row in range(0, len(rows), size)]
    each(one, parts, None if keys.device.type == "cpu" else 1)
    return before
