"""The clusters of a domain, and which clusters of two domains have neighbours in each other.

Both are learnt from samples of rows: one part of a sample makes the clusters, the other says how far to look. Samples
of all the shards of a domain, joined, do as well as one of the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.neighbors.kmeans import k_means
from ucdr_ray.neighbors.mutual import graphs
from ucdr_ray.neighbors.nearest import Nearest, slots_of
from ucdr_ray.neighbors.order import closest
from ucdr_ray.neighbors.search import Rows, search

# Share of a sample's mutual pairs that must stand in pairs of clusters that are searched.
COVERED = 0.985
_PER_ROOT = 2  # clusters for the square root of a domain's rows
_MOST = 8192  # clusters of one domain; a yes or no for every pair of them takes 64 MB
_TRAINED = 24  # sampled rows for each cluster
_HELD = 16_384  # sampled rows that say how far to look
_ROUNDS = 4  # of k-means; more change nothing in the search
_VOTES = 16  # clusters of the other domain that a row votes for


@dataclass(frozen=True)
class Sample:
    """Random rows of a domain: `trained` (T, D), `held` (H, D); `rows`: how many the domain has."""

    trained: Tensor
    held: Tensor
    rows: int

    @classmethod
    def of(cls, part: Rows, rows: int, seed: int) -> "Sample":
        """A shard's share of the domain's sample: which rows are in it depends on `rows` and `seed` alone.

        Args:
            part: unit rows of the shard, in any order.
            rows: rows of the domain, all shards together.
        """
        trained = min(_TRAINED * _clusters(rows), -(-rows // 2))
        held = min(_HELD, rows - trained)
        drawn = np.random.default_rng(seed).choice(rows, trained + held, replace=False)
        return cls(own_rows(part, drawn[:trained]), own_rows(part, drawn[trained:]), rows)

    @classmethod
    def joined(cls, shards: "Sequence[Sample]") -> "Sample":
        """The sample of the domain from those of its shards, which hold ascending slots."""
        trained = torch.cat([shard.trained for shard in shards])
        return cls(trained, torch.cat([shard.held for shard in shards]), shards[0].rows)


@dataclass(frozen=True)
class Clusters:
    """The clusters of a domain: `centroids` (K, D), unit rows."""

    centroids: Tensor

    @classmethod
    def fit(cls, sample: Sample, seed: int) -> "Clusters":
        """k-means by inner product on `sample.trained`: about 2 sqrt(rows) clusters."""
        rows = sample.trained.cpu().numpy()
        if len(rows) == 0:
            return cls(sample.trained.new_zeros(1, rows.shape[1]))
        count = max(1, min(_clusters(sample.rows), len(rows) // 8))
        centroids, _ = k_means(rows, count, _ROUNDS, seed, spherical=True)
        return cls(torch.from_numpy(centroids).to(sample.trained.device))

    def __len__(self) -> int:
        return len(self.centroids)

    def assign(self, vectors: Tensor) -> Tensor:
        """(N,) int64: the cluster of each of (N, D) rows. A row's cluster does not depend on the other rows."""
        return closest(vectors, self.centroids)


def own_rows(part: Rows, slots: np.ndarray) -> Tensor:
    """A shard's own rows among `slots`, by ascending slot, in whatever order it keeps them."""
    order = part.slots.argsort()
    found = np.flatnonzero(np.isin(part.slots[order].cpu().numpy(), slots))
    return part.vectors[order[torch.from_numpy(found).to(order.device)]]


def near(a: Clusters, sample: Sample, b: Clusters, other: Sample | None, k: int) -> Tensor:
    """(K_a, K_b) bool: which pairs of clusters hold nearly all mutual k-nearest neighbours.

    Rows of the samples vote for the clusters of the other side that are nearest to them, the nearest one with 1, the
    next with 1/2, 1/3 and so on. Pairs of clusters are taken in the order of the votes, by share of the cluster's rows,
    until they hold `COVERED` of the mutual neighbours among the held rows, which are searched exactly. There k is
    smaller in the proportion of held rows to all, so that neighbours lie as far off as they do among all rows.

    Args:
        other: of `b`; None where `a` and `b` are the same: neighbours inside a domain.
    """
    there = _votes(a, sample.trained, b, inside=other is None)
    back = there.T if other is None else _votes(b, other.trained, a, inside=False).T
    # A little of the centroids' likeness orders what got no vote.
    likeness = (a.centroids @ b.centroids.T).cpu()
    if other is None:
        likeness = likeness + likeness.T  # to the bit the same both ways, as what is near must be
    order = there + back + 1e-3 * likeness
    first, second = _mutual_pairs(sample, other, k)
    if len(first) == 0:
        return torch.ones_like(order, dtype=torch.bool)
    held = a.assign(sample.held).cpu()
    also = held if other is None else b.assign(other.held).cpu()
    reached = order[held[first], also[second]].sort(descending=True).values
    return order >= reached[int(np.ceil(COVERED * len(reached))) - 1]


def _votes(a: Clusters, rows: Tensor, b: Clusters, inside: bool) -> Tensor:
    """(K_a, K_b) float32: the votes of rows (T, D) of `a`, by share of the rows that their cluster has among them."""
    best = Nearest(len(rows), min(_VOTES, len(b)), rows.device)
    search(Rows.all(rows), best, Rows.all(b.centroids))
    voted = slots_of(best.codes()).cpu()
    own = voted[:, 0] if inside else a.assign(rows).cpu()
    weight = (1 / torch.arange(1, best.k + 1)).expand(voted.shape)
    place = own[:, None] * len(b) + voted
    votes = torch.zeros(len(a) * len(b)).index_add_(0, place.view(-1), weight.reshape(-1))
    return votes.view(len(a), len(b)) / torch.bincount(own, minlength=len(a)).clamp(min=1)[:, None]


def _mutual_pairs(sample: Sample, other: Sample | None, k: int) -> tuple[Tensor, Tensor]:
    """Mutual neighbours among the held rows: their places in `sample.held` and in the other's."""
    a, b = sample, sample if other is None else other
    there = Nearest(len(a.held), _fewer(k, b), a.held.device)
    back = there if other is None else Nearest(len(b.held), _fewer(k, a), b.held.device)
    one, two = Rows.all(a.held), Rows.all(b.held)
    search(one, there, *((None, None) if other is None else (two, back)))
    graph, _ = graphs(there.codes(), None if other is None else back.codes())
    return graph.edges(torch.arange(len(a.held)))


def _fewer(k: int, sample: Sample) -> int:
    """k among the held rows as it is among all."""
    return max(1, round(k * len(sample.held) / sample.rows))


def _clusters(rows: int) -> int:
    """How many clusters a domain of so many rows should have."""
    return min(int(_PER_ROOT * rows**0.5), _MOST)
