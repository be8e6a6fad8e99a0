"""How many of the mutual neighbours an approximate search found, measured against exact search on random rows."""

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from ucdr_ray.neighbors.nearest import Nearest, code, scores_of, slots_of
from ucdr_ray.neighbors.screen import Screened, Space, Tile, dots
from ucdr_ray.neighbors.search import Rows, search, side
from ucdr_ray.threads import each

_SAMPLED = 256  # rows whose exact neighbours are searched
_CHECKED = (
    256  # pairs that were found, and as many again that were not, of which is counted whether they are mutual
)


@dataclass(frozen=True)
class Recall:
    """`share` of the mutual neighbours that were found, 0..1, NaN where the sample has none; it rests on `pairs`."""

    share: float
    pairs: int


def mutual_recall(a: Tensor, there: Tensor, b: Tensor | None, back: Tensor | None, seed: int) -> Recall:
    """Measure it, at the cost of searching a few hundred rows exactly.

    Every mutual pair of a sampled row is among the row's exact neighbours, and it is mutual if fewer than k rows are
    nearer to the neighbour. That is counted for a part of the pairs, found and not found apart. No count is needed for
    a pair worse than what the neighbour's approximate list ends with.

    Args:
        a: (N, D) rows; there: (N, k) codes of their neighbours.
        b: (M, D) the neighbours; back: (M, k) codes of theirs. None: neighbours inside `a`.
    """
    k, draw = there.shape[1], torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(a), generator=draw)[:_SAMPLED].to(a.device)
    other, lists = (a, there) if b is None or back is None else (b, back)
    best = Nearest(len(rows), k + 1, a.device)
    search(Rows(a[rows], rows), best, Rows.all(other))
    codes = best.codes()
    if b is None:  # without itself; where it does not stand in the list, without the last
        itself = slots_of(codes) == rows[:, None]
        itself[:, -1] |= ~itself.any(1)
        codes = codes[~itself]
    else:
        codes = codes[:, :k].reshape(-1)
    real = slots_of(codes) >= 0
    row, column = rows.repeat_interleave(k)[real], slots_of(codes)[real]
    score = scores_of(codes)[real]
    found = (slots_of(there[row]) == column[:, None]).any(1) & (slots_of(lists[column]) == row[:, None]).any(
        1
    )
    last = lists[column, k - 1]
    possible = found | (slots_of(last) < 0) | (score >= scores_of(last))

    def mutual(pairs: Tensor) -> float:
        """How many of the pairs, a mask, are mutual."""
        place = pairs.nonzero().view(-1)
        checked = place[torch.randperm(len(place), generator=draw)[:_CHECKED].to(place.device)]
        own = column[checked] if b is None else None
        count = nearer(other[column[checked]], score[checked], row[checked], own, Rows.all(a))
        return float((count < k).double().mean()) * len(place) if len(place) else 0.0

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
        key, column = Tile(asked.some(some), Screened.of(vectors), space).reaching(score[some], None)
        found = slots[column]
        ahead = code(dots(keys[some], key, vectors, column), found) > known[some][key]
        if own is not None:
            ahead &= found != own[some][key]
        with lock:
            before[some] += torch.bincount(key[ahead], minlength=len(keys[some]))

    parts = [(key, row) for key in range(0, len(keys), size) for row in range(0, len(rows), size)]
    each(one, parts, None if keys.device.type == "cpu" else 1)
    return before
