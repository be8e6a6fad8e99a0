"""One shard of the memory bank: consecutive slots of every domain, and its part of the search for neighbours.

A graph a -> b lies with the rows of b: each shard knows who names its own rows, so that one question to all shards
brings a query's neighbours together with their keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ucdr_ray.neighbors.bank import Bank
from ucdr_ray.neighbors.centre import centred, exact_sum
from ucdr_ray.neighbors.memory import Neighbourhood
from ucdr_ray.neighbors.mutual import ascending, common, flipped, pairs, spans
from ucdr_ray.neighbors.nearest import Nearest, slots_of
from ucdr_ray.neighbors.parts import span
from ucdr_ray.neighbors.search import Rows, search

Pair = tuple[int, int]  # of domains, query first


@dataclass(frozen=True)
class Held:
    """Some rows of a domain, as a shard holds them: ascending slots (n,), keys (n, D), filled (n,) bool."""

    slot: Tensor
    key: Tensor
    filled: Tensor


class Shard:
    """Rows and graphs of one shard.

    Args:
        sizes: images of each domain.
        dim: dimension D of a key.
        index, count: which shard of how many.
        momentum: as of `Bank`.
    """

    def __init__(self, sizes: Sequence[int], dim: int, index: int, count: int, momentum: float = 0.0) -> None:
        self.sizes, self.index, self.count = list(sizes), index, count
        self.spans = [span(rows, index, count) for rows in sizes]
        self.banks = [Bank(stop - first, dim, momentum) for first, stop in self.spans]
        # (a, b): ascending i * sizes[b] + j for every edge i -> j to an own row j.
        self.graphs: dict[Pair, Tensor] = {}
        self._lists: dict[Pair, Nearest] = {}
        self._found: dict[Pair, Tensor] = {}  # what became of the lists: slots (n, k)
        self._across: list[Tensor] = []

    def push(self, domain: Tensor, slot: Tensor, key: Tensor) -> None:
        """Store keys (B, D) of own rows (B,), (B,)."""
        for index, bank in enumerate(self.banks):
            mine = domain == index
            bank.push(slot[mine] - self.spans[index][0], key[mine])

    def edges(self, asked: Mapping[int, Tensor]) -> dict[Pair, tuple[Tensor, Tensor]]:
        """Edges from queries to own rows, of every graph.

        Args:
            asked: domain -> (B,) query slots, repeats allowed.

        Returns:
            (a, b) -> (E,) position among the queries and (E,) neighbour in b.
        """
        found = {}
        for (a, b), graph in self.graphs.items():
            if a in asked:
                first = torch.searchsorted(graph, asked[a] * self.sizes[b])
                stop = torch.searchsorted(graph, (asked[a] + 1) * self.sizes[b])
                position, place = spans(first, stop)
                found[a, b] = position, graph[place] % max(self.sizes[b], 1)
        return found

    def rows(self, domain: int, slot: Tensor) -> Held:
        """Own rows among `slot`, each once."""
        first, stop = self.spans[domain]
        slot = slot[(slot >= first) & (slot < stop)].unique()
        bank = self.banks[domain]
        return Held(slot, bank.keys[slot - first], bank.filled[slot - first])

    # The search, in this order: `total`, `begin`, `search` and `merge`, `named` and `link`, `degrees`.

    def total(self, domain: int) -> Tensor:
        """This shard's share of a domain's `exact_sum`."""
        return exact_sum(self.banks[domain].keys)

    def begin(self, wanted: Neighbourhood, totals: Sequence[Tensor]) -> None:
        """Forget all graphs, and make ready for a search.

        Args:
            totals: the domains' `exact_sum` over all shards; empty where none is to be centred.
        """
        self.graphs, self._lists, self._found, self._across = {}, {}, {}, []
        for a, bank in enumerate(self.banks):
            keys = bank.keys
            self._across.append(centred(keys, totals[a], self.sizes[a]) if totals else keys)
            if wanted.k_in is not None:
                self._lists[a, a] = Nearest(len(bank.keys), wanted.k_in)
            if wanted.k_cross is not None:
                for b in range(len(self.banks)):
                    if b != a:
                        self._lists[a, b] = Nearest(len(bank.keys), wanted.k_cross)

    def keys(self, domain: int, across: bool) -> Tensor:
        """Own rows (n, D) as they are searched."""
        return self._across[domain] if across else self.banks[domain].keys

    def search(self, a: int, b: int, peer: int, keys: Tensor | None) -> Tensor | None:
        """Search between own rows of `a` and a peer's rows of `b`.

        Args:
            peer: the shard that holds `keys`; this one itself: without keys.

        Returns:
            (m, k) codes: what was found here for the peer's rows; None for this shard's own.
        """
        mine = Rows.all(self.keys(a, a != b), self.spans[a][0])
        found = self._lists[a, b]
        if peer == self.index:
            if a == b:
                search(mine, found)
            else:
                theirs = Rows.all(self.keys(b, True), self.spans[b][0])
                search(mine, found, theirs, self._lists[b, a])
            return None
        assert keys is not None
        back = Nearest(len(keys), found.k)
        search(mine, found, Rows.all(keys, span(self.sizes[b], peer, self.count)[0]), back)
        return back.codes()

    def merge(self, a: int, b: int, codes: Tensor) -> None:
        """Take what a peer found in its rows of `b` for own rows of `a`."""
        self._lists[a, b].merge(codes)

    def named(self, a: int, b: int) -> list[Tensor]:
        """For each shard, the edges from own rows of `a` to its rows of `b`: i * sizes[b] + j."""
        edges = pairs(self._slots(a, b), self.spans[a][0], self.sizes[b])
        neighbour = edges % max(self.sizes[b], 1)
        ends = [span(self.sizes[b], shard, self.count) for shard in range(self.count)]
        return [edges[(neighbour >= first) & (neighbour < stop)] for first, stop in ends]

    def link(self, a: int, b: int, named: Sequence[Tensor], mutual: bool) -> None:
        """Make the graph a -> b to own rows of `b`, from the edges that each shard named; mutual ones alone."""
        edges = torch.cat(list(named))
        if mutual:
            own = pairs(self._slots(b, a), self.spans[b][0], self.sizes[a])
            self.graphs[a, b] = common(edges, flipped(own, self.sizes[a], self.sizes[b]))
        else:
            self.graphs[a, b] = ascending(edges)

    def degrees(self, a: int, b: int, mutual: bool) -> tuple[int, int]:
        """Own rows of `a` with any neighbour in `b`, and their edges. Mutual ones are the same from either side."""
        if mutual:
            own = self.graphs[b, a] % max(self.sizes[a], 1)
            return len(own.unique()), len(own)
        degree = (self._slots(a, b) >= 0).sum(1)
        return int((degree > 0).sum()), int(degree.sum())

    def end(self) -> None:
        """Give back the memory that the search took."""
        self._lists, self._found, self._across = {}, {}, []

    def _slots(self, a: int, b: int) -> Tensor:
        """The finished lists of own rows of `a`."""
        if (a, b) not in self._found:
            self._found[a, b] = slots_of(self._lists.pop((a, b)).codes())
        return self._found[a, b]
