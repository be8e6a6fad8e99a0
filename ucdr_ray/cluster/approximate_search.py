"""Approximate search among shards: each searches its own rows' neighbours in the rows of all, cluster by cluster.

Who leads it sees samples' clusters and, to measure the recall, a few hundred rows.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
import torch
from torch import Tensor

from ucdr_ray.cluster.shards import Shards
from ucdr_ray.cluster.wire import own, packed
from ucdr_ray.neighbors.approximate import EXACT, WORTH, Quality, compared
from ucdr_ray.neighbors.memory import Neighbourhood
from ucdr_ray.neighbors.recall import mutual_recall
from ucdr_ray.neighbors.search import Rows


@dataclass(frozen=True)
class _Clustered:
    """A domain: references to its sample's shares and to its clusters, (K,) rows of each cluster."""

    samples: list[Any]
    clusters: Any
    sizes: Tensor


class ApproximateSearch:
    """The approximate part of a search with number `search`. Work is as `neighbors.approximate` says.

    For each pair of domains every shard gets the rows of all others (D floats, a slot), one shard after the other.
    """

    def __init__(self, shards: Shards, search: int, wanted: Neighbourhood, seed: int) -> None:
        self._shards, self._search, self._wanted, self._seed = shards, search, wanted, seed
        self._clustered = cache(self._cluster)

    def pair(self, a: int, b: int) -> Quality:
        """Fill the shards' lists a -> b and b -> a; or find that exact search is as fast, and leave them empty."""
        k = self._wanted.k_in if a == b else self._wanted.k_cross
        across = a != b and self._wanted.centred_across
        one, two = self._clustered(a, across), self._clustered(b, across)
        samples = one.samples + ([] if a == b else two.samples)
        near = self._shards.actors[0].step.remote(
            self._search, "near", k, a == b, one.clusters, two.clusters, *samples
        )
        mask = own(self._shards.get({near: 0})[near])
        share = compared(one.sizes, two.sizes, mask)
        if share > WORTH:
            return EXACT
        self._fill(a, b, across, near)
        if a != b:
            self._fill(b, a, across, ray.put(packed(mask.T.contiguous())))
        there = _Side(self._shards, self._search, a, b, across)
        back = None if a == b else _Side(self._shards, self._search, b, a, across)
        return Quality(share, mutual_recall(there, back, int(k or 0), self._seed))

    def _cluster(self, domain: int, across: bool) -> _Clustered:
        actors, seed = self._shards.actors, self._seed + domain
        samples = [actor.step.remote(self._search, "sample", domain, across, seed) for actor in actors]
        clusters = actors[0].step.remote(self._search, "clusters", seed, *samples)
        sizes = self._shards.all("step", self._search, "group", domain, across, clusters)
        return _Clustered(samples, clusters, sum(map(own, sizes)))

    def _fill(self, a: int, b: int, across: bool, near: Any) -> None:
        """All shards' lists a -> b: in each round every shard searches the rows of another."""
        actors = self._shards.actors
        for distance in range(len(actors)):
            peers = [(mine + distance) % len(actors) for mine in range(len(actors))]
            rows = [
                actors[p].step.remote(self._search, "grouped", b, across) if distance else None for p in peers
            ]
            calls = {}
            for mine, peer in enumerate(peers):
                arguments = (peer, a, b, peer, across, near, rows[mine])
                calls[actors[mine].once.remote(self._search, "search_near", *arguments)] = mine
            self._shards.get(calls)


@dataclass(frozen=True)
class _Side:
    """A `recall.Side` whose rows lie with the shards: domain a, lists a -> b."""

    shards: Shards
    search: int
    a: int
    b: int
    across: bool

    @property
    def rows(self) -> int:
        return self.shards.spec.sizes[self.a]

    def vectors(self, slots: Tensor) -> Tensor:
        return self._gathered(slots, "vectors", self.a, self.across)

    def lists(self, slots: Tensor) -> Tensor:
        return self._gathered(slots, "lists", self.a, self.b)

    def nearest(self, queries: Rows, k: int) -> Tensor:
        codes = torch.cat(self._all("nearest", self.a, self.across, queries, k), dim=1)
        return codes.sort(dim=1, descending=True).values[:, :k]

    def nearer(self, keys: Tensor, score: Tensor, slot: Tensor, own: Tensor | None) -> Tensor:
        return torch.stack(self._all("nearer", self.a, self.across, keys, score, slot, own)).sum(0)

    def _all(self, name: str, *arguments: Any) -> list[Any]:
        return own(self.shards.all("step", self.search, name, *map(packed, arguments)))

    def _gathered(self, slots: Tensor, name: str, *of: Any) -> Tensor:
        """What the shards have of some slots, in the order of these."""
        places, values = zip(*self._all(name, *of, slots), strict=True)
        found = torch.cat(values)
        return found[torch.cat(places).argsort()]
