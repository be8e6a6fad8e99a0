"""The prototypes of a domain: the centres of its clusters, as many as the elbow of the inertia curve says.

As in UEM (Wang, Du, Zhu, NeurIPS 2024), sec. 3.2.1. They are learnt from a sample of the rows; the samples of all the
shards of a domain, joined, are that of the whole, so that shards never send all of their rows anywhere.
"""

from dataclasses import dataclass

import numpy as np
import torch
from kneed import KneeLocator
from torch import Tensor

from ucdr_ray.neighbors.centre import exact_sum, mean
from ucdr_ray.neighbors.clusters import own_rows
from ucdr_ray.neighbors.kmeans import k_means
from ucdr_ray.neighbors.order import closest
from ucdr_ray.neighbors.search import Rows

SAMPLED = 65_536  # rows of a domain that make its clusters; of a smaller domain all
_COUNTED = 10_000  # of these, how many tell the number of clusters
_CANDIDATES = 30  # numbers that are tried
_ROUNDS = 20  # of k-means
_BLOCK = 65_536  # rows assigned at once


@dataclass(frozen=True)
class Prototypes:
    """A domain's prototypes and the mean of all its rows.

    `vectors` (C, D) float32, C >= 1, each the nearest one of at least one row. They are the clusters' means as they
    are, inside the unit sphere: Eq. 8 and 9 reckon with places, not directions. `mean` (D,) float32.
    """

    vectors: Tensor
    mean: Tensor

    @classmethod
    def fit(
        cls,
        sample: Tensor,
        centre: Tensor,
        seed: int,
        most: int = 150,
        count: int | None = None,
        before: Tensor | None = None,
    ) -> "Prototypes":
        """Prototypes from a sample (N, D) of a domain's rows, N >= 1, and the mean (D,) of them all.

        Args:
            sample: those `drawn` from the shards, joined in the order of their slots.
            most: the largest number of clusters to try.
            count: the number of clusters, if the `elbow` is not to be asked.
            before: (count, D) prototypes from which k-means goes on; else it begins anew.

        Raises:
            ValueError: an empty sample, or a value that is not finite.
        """
        _check(sample)
        return cls(clusters(sample, count or elbow(sample, seed, most), seed, before), centre)

    @classmethod
    def of(cls, vectors: Tensor, seed: int, most: int = 150) -> "Prototypes":
        """The same where all of the domain's unit rows (N, D) are at hand."""
        _check(vectors)
        return cls.fit(*learnt_from(vectors, seed), seed, most)

    def __len__(self) -> int:
        return len(self.vectors)


def assign(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """(N,) int64: which of (C, D) prototypes is nearest to each of (N, D) rows, by Euclidean distance.

    Of equally near ones it is the first. A row's cluster does not depend on the other rows.
    """
    # The nearest of p is the one with the largest x.p - |p|^2 / 2.
    half = prototypes.double().square().sum(1, keepdim=True) / 2
    centres = torch.cat([prototypes, -half.to(prototypes.dtype)], 1)
    blocks = [torch.nn.functional.pad(rows, (0, 1), value=1.0) for rows in vectors.split(_BLOCK)]
    return torch.cat([closest(block, centres) for block in blocks])


def drawn(part: Rows, rows: int, seed: int) -> Tensor:
    """A shard's share (n, D) of the domain's sample: which rows are in it depends on `rows` and `seed` alone.

    Args:
        part: rows of the shard, in any order.
        rows: rows of the domain, all shards together.
    """
    chosen = np.random.default_rng(seed).choice(rows, min(rows, SAMPLED), replace=False, shuffle=False)
    return own_rows(part, chosen)


def learnt_from(vectors: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The sample and the mean of a domain, for `fit`, where all of its unit rows (N, D) are at hand."""
    return drawn(Rows.all(vectors), len(vectors), seed), mean(exact_sum(vectors), len(vectors))


def elbow(sample: Tensor, seed: int, most: int = 150) -> int:
    """How many clusters rows (N, D) have: where the inertia of k-means stops falling steeply.

    Numbers from 2 to `most` are tried, or to N / 10 where that is less, evenly spaced by their logarithm. Where the
    curve has no knee it is the largest of them; fewer than 20 rows are one cluster.
    """
    rows = sample.cpu().numpy()
    if len(rows) > _COUNTED:
        rows = rows[np.random.default_rng(seed).choice(len(rows), _COUNTED, replace=False)]
    largest = min(most, len(rows) // 10)
    if largest < 2:
        return 1
    # One cluster is where the curve begins, without which two could not be its knee.
    tried = [1, *np.unique(np.geomspace(2, largest, _CANDIDATES).round().astype(int)).tolist()]
    inertia = [k_means(rows, count, _ROUNDS, seed, spread=True)[1] for count in tried]
    return knee(tried, inertia)


def knee(tried: list[int], inertia: list[float]) -> int:
    """Which of the ascending numbers of clusters is the first knee of their inertia; the last where there is none.

    The first number is only where the curve begins.
    """
    if min(inertia) == max(inertia):
        return tried[-1]
    found = KneeLocator(tried, inertia, curve="convex", direction="decreasing", online=True).all_knees
    return min((int(count) for count in found if count > tried[0]), default=tried[-1])


def clusters(sample: Tensor, count: int, seed: int, before: Tensor | None = None) -> Tensor:
    """(C, D) centres of rows (N, D) by k-means, C <= count: one that is nearest to no row of the sample is left out.

    So none is empty in the domain either, whose rows the sampled ones are.
    """
    count, start = min(count, len(sample)), None
    if before is not None and len(before) == count:
        start = before.cpu().numpy()
    found, _ = k_means(sample.cpu().numpy(), count, _ROUNDS, seed, spread=True, start=start)
    centres = torch.from_numpy(found).to(sample.device)
    return centres[assign(sample, centres).unique()]


def _check(sample: Tensor) -> None:
    if len(sample) == 0:
        raise ValueError("a domain without rows has no prototypes")
    if not bool(sample.isfinite().all()):
        raise ValueError("vectors to cluster must be finite")
