"""Approximate search: exact search that leaves out pairs of clusters in which neighbours are hardly ever found.

What is searched is scored as in exact search, to the same bits, so that with no pair of clusters left out the lists are
the exact ones.
"""

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from ucdr_ray.neighbors.mutual import spans
from ucdr_ray.neighbors.nearest import Nearest
from ucdr_ray.neighbors.screen import Screened, Space, Tile, dots
from ucdr_ray.neighbors.search import Rows, candidates
from ucdr_ray.threads import each

_ROWS = 512  # of a cluster at once
_EVEN = 1024  # columns are padded to a multiple of so many: see `screen`
_COLUMNS = 16_384  # rows of the clusters near it at once


@dataclass(frozen=True)
class Grouped:
    """Rows of a domain sorted by cluster: those of cluster c are `rows[first[c]:first[c + 1]]`."""

    rows: Rows
    first: Tensor  # (K + 1,) int64

    @classmethod
    def of(cls, rows: Rows, cluster: Tensor, clusters: int) -> "Grouped":
        """Sort rows by their cluster (N,), one of 0..clusters-1."""
        order = cluster.argsort(stable=True)
        first = torch.zeros(clusters + 1, dtype=torch.int64)
        first[1:] = torch.bincount(cluster.cpu(), minlength=clusters).cumsum(0)
        return cls(Rows(rows.vectors[order], rows.slots[order]), first)

    def sizes(self) -> Tensor:
        """(K,) int64: rows of each cluster."""
        return self.first.diff()

    def __len__(self) -> int:
        return len(self.rows)


def search_near(a: Grouped, found: Nearest, b: Grouped, near: Tensor, inside: bool) -> None:
    """Offer the lists `found` of the rows of `a`, sorted as they are, all rows of `b` in clusters near their own.

    Args:
        near: (K_a, K_b) bool, whether to search a pair of clusters.
        inside: `a` and `b` are of one domain: a row is not its own neighbour.
    """
    vectors, device = b.rows.vectors, b.rows.vectors.device
    own = _places(a.rows.slots, b.rows.slots) if inside else None
    theirs = Screened.of(vectors)
    mine = theirs if a is b else Screened.of(a.rows.vectors)
    space = Space(device)

    def one(cluster: int) -> None:
        wanted = near[cluster]
        _, place = spans(b.first[:-1][wanted], b.first[1:][wanted])
        place = place.to(device)
        if len(place) == 0:
            return
        last = int(a.first[cluster + 1])
        for start in range(int(a.first[cluster]), last, _ROWS):
            rows = slice(start, min(start + _ROWS, last))
            for some in place.split(_COLUMNS):
                padded = torch.nn.functional.pad(some, (0, -len(some) % _EVEN))
                tile = Tile(mine.some(rows), theirs.some(padded), space)
                tile.leave_out(slice(None), slice(len(some), None))
                if own is not None:
                    tile.leave_out(*_found(own[rows], some))
                for row, column in candidates(tile, (found, rows, Lock()), None):
                    at = some.index_select(0, column)
                    score = dots(a.rows.vectors[rows], row, vectors, at)
                    found.offer(rows, row, score, b.rows.slots.index_select(0, at))

    filled = (a.sizes() > 0).nonzero().view(-1).tolist()
    each(one, filled, None if device.type == "cpu" else 1)


def _places(slots: Tensor, among: Tensor) -> Tensor:
    """Where each of the slots stands in `among`, -1 where nowhere."""
    if len(among) == 0:
        return torch.full_like(slots, -1)
    ascending, order = among.sort()
    at = torch.searchsorted(ascending, slots).clamp(max=len(among) - 1)
    return torch.where(ascending[at] == slots, order[at], -1)


def _found(places: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the places stand in `among`, ascending, and where there."""
    at = torch.searchsorted(among, places).clamp(max=len(among) - 1)
    which = (among[at] == places).nonzero().view(-1)
    return which, at[which]
