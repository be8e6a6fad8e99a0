"""One shard of the memory bank: consecutive slots of every domain, and its part of the search for neighbours.

A graph a -> b lies with the rows of b: each shard knows who names its own rows, so that one question to all shards
brings a query's neighbours together with their keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.neighbors.bank import Bank
from ucdr_ray.neighbors.centre import centred, exact_sum
from ucdr_ray.neighbors.clusters import Clusters, Sample, near
from ucdr_ray.neighbors.memory import Neighbourhood
from ucdr_ray.neighbors.mutual import spans
from ucdr_ray.neighbors.nearest import Nearest, code, scores_of, slots_of
from ucdr_ray.neighbors.order import alike, by_slot
from ucdr_ray.neighbors.parts import span
from ucdr_ray.neighbors.prototypes import drawn
from ucdr_ray.neighbors.recall import nearer
from ucdr_ray.neighbors.search import Rows, search
from ucdr_ray.neighbors.sparse import Grouped, search_near

Pair = tuple[int, int]  # of domains, query first


@dataclass(frozen=True)
class Held:
    """Some rows of a domain, as a shard holds them: ascending slots (n,), keys (n, D), filled (n,) bool."""

    slot: Tensor
    key: Tensor
    filled: Tensor


@dataclass(frozen=True)
class Named:
    """Edges between rows of domains a and b: i * sizes[b] + j (E,) for i -> j, and their scores (E,)."""

    edge: Tensor
    score: Tensor


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
        # Of a search: own rows of each domain, as they are and as they are compared across domains; lists of those.
        self._rows: list[tuple[Rows, Rows]] = []
        self._lists: dict[Pair, Nearest] = {}
        self._found: dict[Pair, Tensor] = {}  # what became of the lists: codes (n, k) by slot
        self._grouped: dict[tuple[int, bool], Grouped] = {}  # own rows by cluster
        self._order: dict[Pair, Rows] = {}  # of lists whose rows are in another order

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

    def drawn(self, domain: int, seed: int) -> Tensor:
        """This shard's share of the sample of a domain that prototypes are learnt from."""
        return drawn(Rows.all(self.banks[domain].keys, self.spans[domain][0]), self.sizes[domain], seed)

    # The search, in this order: `total`, `begin`, `search` and `merge`, `named` and `link`, `degrees`.

    def total(self, domain: int) -> Tensor:
        """This shard's share of a domain's `exact_sum`."""
        return exact_sum(self.banks[domain].keys)

    def begin(self, wanted: Neighbourhood, totals: Sequence[Tensor]) -> None:
        """Forget all graphs, and make ready for a search.

        Args:
            totals: the domains' `exact_sum` over all shards; empty where none is to be centred.
        """
        self.end()
        self.graphs = {}
        for a, bank in enumerate(self.banks):
            first, stop = self.spans[a]
            rows = across = alike(Rows.all(bank.keys, first))
            if totals:
                shifted = centred(bank.keys, totals[a], self.sizes[a])
                across = Rows(shifted[rows.slots - first], rows.slots)
            self._rows.append((rows, across))
            if wanted.k_in is not None:
                self._lists[a, a] = Nearest(stop - first, wanted.k_in)
            if wanted.k_cross is not None:
                for b in range(len(self.banks)):
                    if b != a:
                        self._lists[a, b] = Nearest(stop - first, wanted.k_cross)

    def searched(self, domain: int, across: bool) -> Rows:
        """Own rows as they are searched."""
        return self._rows[domain][across]

    def search(self, a: int, b: int, peer: int, theirs: Rows | None) -> Tensor | None:
        """Search between own rows of `a` and a peer's rows of `b`.

        Args:
            peer: the shard that holds `theirs`; this one itself: without them.

        Returns:
            (m, k) codes: what was found here for the peer's rows; None for this shard's own.
        """
        mine, found = self.searched(a, a != b), self._lists[a, b]
        if peer == self.index:
            if a == b:
                search(mine, found)
            else:
                search(mine, found, self.searched(b, True), self._lists[b, a])
            return None
        assert theirs is not None
        back = Nearest(len(theirs), found.k)
        search(mine, found, theirs, back)
        return back.codes()

    def merge(self, a: int, b: int, codes: Tensor) -> None:
        """Take what a peer found in its rows of `b` for own rows of `a`."""
        self._lists[a, b].merge(codes)

    # Instead of `search` and `merge`, an approximate search: `sample`, `clusters`, `group`, `near`, `search_near`.

    def sample(self, domain: int, across: bool, seed: int) -> Sample:
        """This shard's share of a domain's sample."""
        return Sample.of(self.searched(domain, across), self.sizes[domain], seed)

    def clusters(self, seed: int, *samples: Sample) -> Clusters:
        """The clusters of a domain, from all shards' shares of its sample."""
        return Clusters.fit(Sample.joined(samples), seed)

    def group(self, domain: int, across: bool, clusters: Clusters) -> Tensor:
        """Sort own rows by cluster; (K,) how many are in each."""
        rows = self.searched(domain, across)
        self._grouped[domain, across] = Grouped.of(rows, clusters.assign(rows.vectors), len(clusters))
        return self._grouped[domain, across].sizes()

    def grouped(self, domain: int, across: bool) -> Grouped:
        return self._grouped[domain, across]

    def near(self, k: int, inside: bool, a: Clusters, b: Clusters, *samples: Sample) -> Tensor:
        """`clusters.near`, from all shards' shares of the sample of a, then those of b's."""
        one = Sample.joined(samples[: self.count])
        return near(a, one, b, None if inside else Sample.joined(samples[self.count :]), k)

    def search_near(
        self, a: int, b: int, peer: int, across: bool, near: Tensor, theirs: Grouped | None
    ) -> None:
        """Search own rows of `a` for neighbours among a peer's of `b`; the peer's own lists are left to the peer.

        Args:
            theirs: the peer's rows; this shard itself: none.
        """
        mine = self._grouped[a, across]
        self._order[a, b] = mine.rows
        peers = self._grouped[b, across] if peer == self.index or theirs is None else theirs
        search_near(mine, self._lists[a, b], peers, near, a == b)

    # What is asked to measure the recall of that: `recall.Side`.

    def vectors(self, domain: int, across: bool, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Own rows among `slots` (E,): (e,) their places there, (e, D)."""
        place, own = self._own(domain, slots)
        rows = self.searched(domain, across)
        return place, rows.vectors[rows.slots.argsort()[own]]

    def lists(self, a: int, b: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The lists of own rows of `a` among `slots` (E,): (e,) their places there, (e, k) codes."""
        place, own = self._own(a, slots)
        return place, self._codes(a, b)[own]

    def nearest(self, domain: int, across: bool, queries: Rows, k: int) -> Tensor:
        """(Q, k) codes of the nearest own rows."""
        best = Nearest(len(queries), k)
        search(queries, best, self.searched(domain, across))
        return best.codes()

    def nearer(
        self, domain: int, across: bool, keys: Tensor, score: Tensor, slot: Tensor, own: Tensor | None
    ) -> Tensor:
        """`recall.nearer` among own rows."""
        return nearer(keys, score, slot, own, self.searched(domain, across))

    def _own(self, domain: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        first, stop = self.spans[domain]
        place = ((slots >= first) & (slots < stop)).nonzero().view(-1)
        return place, slots[place] - first

    def named(self, a: int, b: int) -> list[Named]:
        """For each shard, the edges from own rows of `a` to its rows of `b`."""
        codes = self._codes(a, b)
        slots = slots_of(codes)
        kept = slots >= 0
        row = torch.arange(self.spans[a][0], self.spans[a][1])[:, None].expand_as(slots)[kept]
        neighbour, score = slots[kept], scores_of(codes[kept])
        edge = row * self.sizes[b] + neighbour
        ends = [span(self.sizes[b], shard, self.count) for shard in range(self.count)]
        held = [(neighbour >= first) & (neighbour < stop) for first, stop in ends]
        return [Named(edge[mine], score[mine]) for mine in held]

    def link(self, a: int, b: int, mutual: bool, *named: Named) -> None:
        """Make the graph a -> b to own rows of `b`, from the edges that each shard named; mutual ones alone."""
        edge = torch.cat([one.edge for one in named])
        if mutual:
            row = edge // max(self.sizes[b], 1)
            own = edge - row * self.sizes[b] - self.spans[b][0]
            # As in `mutual.returned`: what is no worse than the end of a list stands in it.
            score = torch.cat([one.score for one in named])
            edge = edge[code(score, row) >= self._codes(b, a)[:, -1][own]]
        self.graphs[a, b] = torch.from_numpy(np.sort(edge.numpy()))

    def degrees(self, a: int, b: int, mutual: bool) -> tuple[int, int]:
        """Own rows of `a` with any neighbour in `b`, and their edges. Mutual ones are the same from either side."""
        if mutual:
            own = self.graphs[b, a] % max(self.sizes[a], 1)
            return len(own.unique()), len(own)
        degree = (slots_of(self._codes(a, b)) >= 0).sum(1)
        return int((degree > 0).sum()), int(degree.sum())

    def end(self) -> None:
        """Give back the memory that the search took."""
        self._lists, self._found, self._rows, self._grouped, self._order = {}, {}, [], {}, {}

    def _codes(self, a: int, b: int) -> Tensor:
        """The finished lists of own rows of `a`, by slot."""
        if (a, b) not in self._found:
            codes = self._lists.pop((a, b)).codes()
            rows = self._order.get((a, b), self.searched(a, a != b))
            self._found[a, b] = by_slot(codes, rows, self.spans[a][0])
        return self._found[a, b]
