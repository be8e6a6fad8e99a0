"""Whether what a query shows is in another domain at all: UEM (Wang, Du, Zhu, NeurIPS 2024), App. B.1.

Learnt without labels from the vectors of an index. The prototypes of two domains are translated and merged (Eq. 8, 9).
A query near a prototype that merged with none shows what the other domain does not have. Of one that merged, the
query's nearest image must not be farther than images of the two merged clusters are from each other (Eq. 25-27).

More than two domains are treated pair by pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ucdr_ray.neighbors.matching import unify
from ucdr_ray.neighbors.prototypes import SAMPLED, Prototypes, assign

LEVELS = np.linspace(
    0, 1, 101
)  # quantiles of Eq. 25's distances that are kept; the last is the paper's maximum
_COMPARED = 2_048  # rows of a cluster, for Eq. 25: of a larger one a sample
_JUDGED = 512  # rows of a domain that say how many of its own would be refused


@dataclass(frozen=True)
class Known:
    """A domain's prototypes (C, d), and the largest distance (C,) of a row to the one it is nearest to."""

    prototypes: np.ndarray
    reach: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """Of one query in one gallery.

    ``distance``: to its nearest image there (Eq. 27). ``threshold``: the largest that counts as near (Eq. 25), None
    where the query's prototype merged with none there.
    """

    distance: float
    threshold: float | None

    @property
    def null(self) -> bool:
        """Nothing there is of the query's category."""
        return self.threshold is None or self.distance > self.threshold

    def reason(self, query: str, gallery: str) -> str:
        """In words, of a query that shows what ``gallery`` lacks."""
        if self.threshold is None:
            return f"images of {query} like this one have no counterpart in {gallery}"
        return (
            f"the nearest image of {gallery} is too far, at distance {self.distance:.3g}; of images of {query} like "
            f"this one at most {self.threshold:.3g} counts as near"
        )


@dataclass(frozen=True)
class OpenSet:
    """What domains have in common, small enough for every process that answers.

    ``known``: by domain, in the order of ``weights`` (K, d) and ``bias`` (K,), which tell domains apart.
    ``distances``: by query and gallery domain (C, len(LEVELS)): quantiles of the product distances (Eq. 25) between the
    rows of each of the query domain's clusters and those of the one it merged with; not numbers where there is none.
    """

    known: dict[str, Known]
    weights: np.ndarray
    bias: np.ndarray
    distances: dict[tuple[str, str], np.ndarray]

    @classmethod
    def fit(cls, samples: Mapping[str, np.ndarray], seed: int = 0) -> Self:
        """Learn from unit rows float32 (N, d) of two domains or more: at most `SAMPLED` of each.

        Cost: clusters as `Prototypes.fit`; each pair of merged clusters at most 2,048² products.

        Raises:
            ValueError: fewer than two domains, an empty one, or a value that is not finite.
        """
        if len(samples) < 2:
            raise ValueError("what domains have in common needs two of them")
        rows = {name: torch.from_numpy(np.ascontiguousarray(some)) for name, some in samples.items()}
        prototypes = {name: Prototypes.of(some, seed) for name, some in rows.items()}
        cluster = {name: assign(some, prototypes[name].vectors).numpy() for name, some in rows.items()}
        distances = {}
        for a, b in combinations(samples, 2):
            shape = (len(prototypes[a]), len(LEVELS)), (len(prototypes[b]), len(LEVELS))
            one, other = np.full(shape[0], np.nan, np.float32), np.full(shape[1], np.nan, np.float32)
            for i, j in merged_pairs(prototypes[a], prototypes[b]):
                mine, theirs = (
                    _some(samples[a][cluster[a] == i], seed),
                    _some(samples[b][cluster[b] == j], seed),
                )
                one[i] = other[j] = np.quantile(product_distance(mine @ theirs.T), LEVELS)
            distances[a, b], distances[b, a] = one, other
        weights, bias = _boundaries(samples)
        known = {
            name: Known(found.vectors.numpy(), _reach(samples[name], found.vectors.numpy(), cluster[name]))
            for name, found in prototypes.items()
        }
        return cls(known, weights, bias, distances)

    def judge(
        self, queries: np.ndarray, query: str, gallery: str, cosines: np.ndarray, quantile: float = 1.0
    ) -> list[Verdict]:
        """What can be said of unit rows (Q, d) of one domain, of which the nearest image in another has these cosines.

        Args:
            cosines: (Q,) of the best hits in ``gallery``.
            quantile: of Eq. 25's distances, from 0 to 1, that the nearest one may have; 1 is the paper's.

        Raises:
            KeyError: either domain is not known, or they are the same one.
        """
        quantiles = self.distances[query, gallery]
        cluster = nearest(queries, self.known[query].prototypes)
        limits = np.array([np.interp(quantile, LEVELS, row) for row in quantiles])[cluster]
        return [
            Verdict(float(distance), None if np.isnan(limit) else float(limit))
            for distance, limit in zip(product_distance(cosines), limits, strict=True)
        ]

    def domains_of(self, queries: np.ndarray) -> list[str | None]:
        """The domain that each of unit rows (Q, d) looks like; None where it lies farther out than that one's own."""
        names = list(self.known)
        found: list[str | None] = []
        for row, place in zip(queries, (queries @ self.weights.T + self.bias).argmax(1), strict=True):
            domain = self.known[names[place]]
            [cluster] = nearest(row[None], domain.prototypes)
            far = np.linalg.norm(row - domain.prototypes[cluster]) > domain.reach[cluster]
            found.append(None if far else names[place])
        return found

    def refused(self, samples: Mapping[str, np.ndarray], quantile: float) -> dict[tuple[str, str], float]:
        """By query and gallery domain, the share of some of a domain's own rows that would be answered with nothing."""
        shares = {}
        for query, gallery in self.distances:
            queries = _some(samples[query], 0, _JUDGED)
            best = (queries @ samples[gallery].T).max(1)
            verdicts = self.judge(queries, query, gallery, best, quantile)
            shares[query, gallery] = float(np.mean([verdict.null for verdict in verdicts]))
        return shares

    def save(self, path: Path) -> None:
        """Write it; what `load` needs besides is the names of the domains, in order."""
        names = list(self.known)
        tensors = {"weights": self.weights, "bias": self.bias}
        for number, domain in enumerate(self.known.values()):
            tensors[f"prototypes.{number}"], tensors[f"reach.{number}"] = domain.prototypes, domain.reach
        for (a, b), quantiles in self.distances.items():
            tensors[f"distances.{names.index(a)}.{names.index(b)}"] = quantiles
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path, names: list[str]) -> Self:
        """What `save` wrote, of a file that was found right by its checksum."""
        tensors = load_file(path)
        known = {
            name: Known(tensors[f"prototypes.{number}"], tensors[f"reach.{number}"])
            for number, name in enumerate(names)
        }
        distances = {
            (a, b): tensors[f"distances.{names.index(a)}.{names.index(b)}"]
            for a in names
            for b in names
            if a != b
        }
        return cls(known, tensors["weights"], tensors["bias"], distances)


def merged_pairs(a: Prototypes, b: Prototypes) -> list[tuple[int, int]]:
    """Which cluster of one domain merged with which of another (Eq. 9)."""
    both = unify(a, b)
    from_b = {int(place): j for j, place in enumerate(both.place_b)}
    return [(i, from_b[int(place)]) for i, place in enumerate(both.place_a) if both.merged[place]]


def product_distance(cosine: np.ndarray) -> np.ndarray:
    """(1 - cos) * ||u - v|| (Eq. 25) of unit rows, from their cosines: the farther, the smaller the cosine."""
    apart = np.clip(1 - np.asarray(cosine, np.float32), 0, None)
    return apart * np.sqrt(2 * apart)


def nearest(rows: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """(N,) which of (C, d) prototypes is nearest to each of (N, d) rows, by Euclidean distance (Eq. 26)."""
    half = np.square(prototypes, dtype=np.float64).sum(1) / 2
    return (rows.astype(np.float64) @ prototypes.T.astype(np.float64) - half).argmax(1)


def _some(rows: np.ndarray, seed: int, most: int = _COMPARED) -> np.ndarray:
    if len(rows) <= most:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), most, replace=False)]


def _reach(rows: np.ndarray, prototypes: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    reach = np.zeros(len(prototypes), np.float32)
    np.maximum.at(reach, cluster, np.linalg.norm(rows - prototypes[cluster], axis=1))
    return reach


def _boundaries(samples: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(K, d) and (K,) of a linear rule that tells K domains apart, which are thought equally likely."""
    rows = {name: _some(some, 0, SAMPLED // 8) for name, some in samples.items()}
    labels = np.repeat(np.arange(len(rows)), [len(some) for some in rows.values()])
    rule = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=1e-3, priors=np.full(len(rows), 1 / len(rows))
    ).fit(np.concatenate(list(rows.values())), labels)
    weights, bias = np.asarray(rule.coef_), np.asarray(rule.intercept_)
    if len(weights) == 1:  # of two domains, one row says which
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return weights.astype(np.float32), bias.astype(np.float32)
