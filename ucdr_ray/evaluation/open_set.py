"""How well it is told that a gallery lacks a query's category: UEM (Wang, Du, Zhu, NeurIPS 2024), App. B.

Two detectors that see no label, beside each other: `ucdr_ray.index.open_set` (B.1), for features whose domains have a
structure in common, and for those of any method one that knows the query domain's clusters alone (B.2).
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch

from ucdr_ray.errors import UserError
from ucdr_ray.evaluation.protocols import DomainVectors
from ucdr_ray.index.open_set import LEVELS, OpenSet
from ucdr_ray.neighbors.prototypes import assign

_COMPARED = 2_048  # rows of a cluster whose distances from each other are looked at: of a larger one a sample


def evaluate_open_set(
    domains: Mapping[str, DomainVectors],
    quantile: float = 1.0,
    seed: int = 0,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Both detectors on ordered pairs of domains of unit rows: on all, without ``pairs``.

    Labelled queries count; one is private if its label is that of no image of the gallery.

    Returns:
        "query->gallery" -> ``prototypes`` (B.1) and ``distances`` (B.2), each with the shares of right answers among
        ``private`` queries, ``shared`` ones and ``all``, None where there are none; ``merged``: clusters of the query
        domain that merged, of how many; ``curve``: quantile -> shares of B.1.

    Raises:
        UserError: a domain without a single label.
    """
    for name, domain in domains.items():
        if all(label is None for label in domain.labels):
            raise UserError(f"domain {name!r} has no labels, and without them nothing can be evaluated")
    rows = {name: domain.vectors for name, domain in domains.items()}
    known = OpenSet.fit(rows, seed)
    found = {}
    for query, gallery in pairs or permutations(domains, 2):
        labels = domains[query].labels
        used = np.array([label is not None for label in labels])
        there = set(domains[gallery].labels)
        private = np.array([label not in there for label in labels])[used]
        queries = rows[query][used]
        cosines = nearest_cosines(queries, rows[gallery])

        levels = [quantile, *LEVELS[::5].tolist()]
        told = [known.judge(queries, query, gallery, cosines, level) for level in levels]
        shares = [accuracy(np.array([verdict.null for verdict in some]), private) for some in told]
        prototypes = known.known[query].prototypes
        merged = ~np.isnan(known.distances[query, gallery][:, 0])
        found[f"{query}->{gallery}"] = {
            "prototypes": shares[0],
            "distances": accuracy(far(rows[query], prototypes, queries, cosines, quantile, seed), private),
            "merged": [int(merged.sum()), len(merged)],
            "curve": {f"{level:.2f}": share for level, share in zip(levels[1:], shares[1:], strict=True)},
        }
    return found


def accuracy(null: np.ndarray, private: np.ndarray) -> dict[str, float | None]:
    """Share of right answers (Q,) bool, where those to private queries should be null: of each kind, and of all."""
    right = null == private
    kinds = {"private": private, "shared": ~private, "all": np.ones(len(right), bool)}
    return {name: float(right[which].mean()) if which.any() else None for name, which in kinds.items()}


def far(
    domain: np.ndarray,
    prototypes: np.ndarray,
    queries: np.ndarray,
    cosines: np.ndarray,
    quantile: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """B.2, by cosine: (Q,) bool, whose nearest image in the gallery is farther than images of one cluster are apart.

    Args:
        domain: unit rows (N, d) of the query domain.
        prototypes: (C, d) of its clusters.
        queries: (Q, d) unit rows of it.
        cosines: (Q,) of the nearest image in the gallery.
        quantile: of a cluster's distances; 1 is the paper's largest one.
    """
    centres = torch.from_numpy(prototypes)
    cluster, own = (assign(torch.from_numpy(rows), centres).numpy() for rows in (domain, queries))
    least = np.empty(len(prototypes))
    for number in range(len(prototypes)):
        some = domain[cluster == number]
        if len(some) > _COMPARED:
            some = some[np.random.default_rng(seed).choice(len(some), _COMPARED, replace=False)]
        among = (some @ some.T)[np.triu_indices(len(some), 1)]
        least[number] = np.quantile(among, 1 - quantile) if len(among) else 1.0
    return cosines < least[own]


def nearest_cosines(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(Q,) cosine of the nearest of unit rows (N, d) to each of (Q, d). Memory: 1,024 · N numbers at a time."""
    return np.concatenate(
        [(queries[at : at + 1024] @ gallery.T).max(1) for at in range(0, len(queries), 1024)]
    )
