"""Who searches whom: every ordered pair of domains, query->gallery, all images of both.

Or, by a `Split`, one domain searches others whose categories are not the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt

from ucdr_ray.errors import UserError
from ucdr_ray.evaluation.metrics import all_metrics
from ucdr_ray.evaluation.ranking import rank_relevant
from ucdr_ray.records import Record

CUTOFFS = (1, 5, 10, 50, 100, 200)
Setting = Literal["close", "partial", "open"]
SETTINGS: tuple[Setting, ...] = ("close", "partial", "open")


@dataclass(frozen=True)
class DomainVectors:
    """One domain, row = slot: float32 (N, d) vectors, N labels (None: unlabelled) and N content-hash ids."""

    vectors: np.ndarray
    labels: Sequence[str | None]
    ids: Sequence[str]


class Split(Record):
    """Which labels are in the query domain, and which in the galleries (UEM, Wang, Du, Zhu, NeurIPS 2024, App. B.2).

    * ``close``: both have all labels.
    * ``partial``: the query domain has a random half of the galleries' labels.
    * ``open``: the galleries have a random half of the query domain's labels; to the other half, which is private to
      it, the right answer is that nothing matches.
    """

    setting: Setting
    seed: NonNegativeInt
    query: str
    galleries: list[str]
    query_labels: list[str]
    gallery_labels: list[str]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Who searches whom."""
        return [(self.query, gallery) for gallery in self.galleries]

    @property
    def labels(self) -> dict[str, list[str]]:
        """Domain -> the labels that it has."""
        return {self.query: self.query_labels} | dict.fromkeys(self.galleries, self.gallery_labels)

    @property
    def private(self) -> list[str]:
        """Labels of the query domain that no gallery has."""
        return sorted(set(self.query_labels) - set(self.gallery_labels))


def draw(
    labels: Mapping[str, Iterable[str | None]],
    setting: Setting,
    query: str,
    galleries: Sequence[str],
    seed: int,
) -> Split:
    """Draw a split; of a seed, a setting and a set of labels it is the same, whatever else a domain has.

    Args:
        labels: domain -> labels of its images. Only those that all domains of the split have take part. Of n such, a
            half is ⌊n / 2⌋.

    Raises:
        UserError: a domain searches itself, is named twice, or the domains have fewer than two labels in common.
    """
    if not galleries or len({query, *galleries}) <= len(galleries):
        raise UserError(
            f"query {query!r}, galleries {', '.join(galleries) or 'none'}: allowed are different domains, one that "
            "searches and at least one that is searched"
        )
    common = set.intersection(*(set(labels[name]) for name in (query, *galleries)))
    every = sorted(label for label in common if label is not None)
    if len(every) < 2:
        raise UserError(
            f"{query} and {', '.join(galleries)} have {len(every)} labels in common; a split needs at least 2"
        )
    seeds = np.random.SeedSequence([seed, SETTINGS.index(setting)])
    chosen = np.random.default_rng(seeds).permutation(len(every))[: len(every) // 2]
    half = [every[index] for index in np.sort(chosen)]
    return Split(
        setting=setting,
        seed=seed,
        query=query,
        galleries=list(galleries),
        query_labels=half if setting == "partial" else every,
        gallery_labels=half if setting == "open" else every,
    )


def centre(domain: DomainVectors) -> DomainVectors:
    """Subtract the domain's mean vector and normalise again: the simplest alignment of domains there is."""
    return replace(domain, vectors=_unit(domain.vectors - domain.vectors.mean(axis=0, dtype=np.float64)))


def unit(domain: DomainVectors) -> DomainVectors:
    """The same with vectors of length 1."""
    return replace(domain, vectors=_unit(domain.vectors))


def tie_order(ids: Sequence[str]) -> np.ndarray:
    """Rows by id, then by slot: the order among equal scores. Ids are hashes, so this shuffle leaks no label."""
    return np.argsort(np.asarray(ids), kind="stable")


def evaluate_pairs(
    domains: Mapping[str, DomainVectors],
    ks: Sequence[int] = CUTOFFS,
    centred: bool = False,
    on_pair: Callable[[str], object] = lambda pair: None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """All metrics of ordered pairs, by cosine.

    Args:
        ks: the cut-offs of the metrics that have one.
        centred: `centre` each domain first.
        on_pair: told each pair when it is done.
        pairs: (query, gallery) each, such as a split's; all without it.

    Returns:
        ``pairs``: "query->gallery" -> metric -> fraction (None where it is undefined: nothing relevant anywhere);
        ``mean``: metric -> mean over the pairs where it is defined; ``queries``: "query->gallery" -> how many were
        ``used``, are ``unlabelled`` (skipped) or ``without_relevant`` (not in map).

    Raises:
        UserError: fewer than two domains, a domain without a single label or with a vector that is not finite, or
            a k below 1.
    """
    if len(domains) < 2:
        raise UserError(
            f"retrieval across domains needs at least 2 domains, got {', '.join(domains) or 'none'}"
        )
    if not ks or min(ks) < 1:
        raise UserError(f"k must be 1 or more, got {list(ks)}")
    for name, domain in domains.items():
        if all(label is None for label in domain.labels):
            raise UserError(f"domain {name!r} has no labels, and without them nothing can be evaluated")
        if bad := int((~np.isfinite(domain.vectors)).any(axis=1).sum()):
            raise UserError(f"domain {name!r}: {bad} of {len(domain.vectors)} vectors are not finite numbers")
    prepared = {name: centre(domain) if centred else unit(domain) for name, domain in domains.items()}
    names = sorted({label for domain in domains.values() for label in domain.labels if label is not None})
    code = {label: index for index, label in enumerate(names)}
    codes = {
        name: np.array([-1 if label is None else code[label] for label in domain.labels])
        for name, domain in domains.items()
    }
    found: dict[str, dict[str, float | None]] = {}
    counts: dict[str, dict[str, int]] = {}
    for query, gallery in pairs or permutations(domains, 2):
        used = codes[query] >= 0
        order = tie_order(domains[gallery].ids)
        summary = rank_relevant(
            prepared[query].vectors[used], codes[query][used],
            prepared[gallery].vectors[order], codes[gallery][order],
            sorted(set(ks)),
        )  # fmt: skip
        pair = f"{query}->{gallery}"
        found[pair] = all_metrics(summary)
        counts[pair] = {
            "used": int(used.sum()),
            "unlabelled": int((~used).sum()),
            "without_relevant": int((summary.relevant == 0).sum()),
        }
        on_pair(pair)
    return {"pairs": found, "mean": _mean(list(found.values())), "queries": counts, "centred": centred}


def _mean(rows: list[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in rows[0]:
        values = [value for row in rows if (value := row[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0).astype(np.float32)
