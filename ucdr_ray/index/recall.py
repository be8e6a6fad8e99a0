"""How much of the exact answer shortcuts find, and how hard they must search for it.

Recall is measured for queries of every domain in every other: features of one domain lie aside of another's, so that a
shortcut which is good for a domain's own images may be bad for all that anyone asks.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ucdr_ray.errors import JobError
from ucdr_ray.index.kinds import FETCHES, Effort, K
from ucdr_ray.index.manifest import PairRecall, ShardEntry
from ucdr_ray.index.publish import Draft
from ucdr_ray.index.search import OpenDomain

QUERIES = 200  # of each domain
_CLOSE = 1.25  # the effort found is at most this many times the least


def measured(
    gallery: OpenDomain, queries: Mapping[str, np.ndarray], effort: Effort | None = None
) -> dict[str, float]:
    """Recall at 10 of what each domain's queries find in ``gallery``, against comparing with all of its rows.

    A row that scores as high as the tenth counts, whichever of equals was found.

    Args:
        queries: by domain, float32 (Q, dim) unit rows.
    """
    found = {}
    for name, rows in queries.items():
        truth = _scores(gallery, rows, exact=True)
        found[name] = _share(truth, _scores(gallery, rows, effort=effort))
    return found


def least_effort(gallery: OpenDomain, queries: Mapping[str, np.ndarray], recall: float) -> Effort:
    """The smallest effort found with which every domain's queries reach ``recall`` in ``gallery``.

    Raises:
        JobError: none does.
    """
    shortcuts = [shard for shard in gallery.shards if shard.entry.approximate is not None]
    kinds = {shard.entry.kind for shard in shortcuts}
    most = max(shard.most_effort for shard in shortcuts)
    truths = {name: _scores(gallery, rows, exact=True) for name, rows in queries.items()}

    def worst(effort: Effort) -> float:
        return min(
            _share(truths[name], _scores(gallery, rows, effort=effort)) for name, rows in queries.items()
        )

    for fetch in sorted({fetch for kind in kinds for fetch in FETCHES[kind]}):
        if (best := worst(Effort(most, fetch))) < recall:
            continue
        low, high = 0, 1
        while high < most and worst(Effort(high, fetch)) < recall:
            low, high = high, min(2 * high, most)
        while high > _CLOSE * max(low, 1) and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if worst(Effort(middle, fetch)) >= recall else (middle, high)
        return Effort(high, fetch)
    raise JobError(
        f"{' and '.join(sorted(kinds))} finds {best:.1%} of the exact top {K} in {gallery.name} at the most, "
        f"less than the {recall:.1%} asked for: not published"
    )


def with_efforts(draft: Draft, folder: Path, queries: Mapping[str, np.ndarray]) -> Draft:
    """The draft with the least efforts that reach its recall, and what they reach, for domains that have shortcuts.

    Args:
        folder: where its files lie.

    Raises:
        JobError: the recall is out of reach.
    """
    manifest, shards, recalls = draft.manifest(), [], []
    for name in manifest.domains:
        entries = manifest.shards_of(name)
        if manifest.rows_of(name) and any(entry.approximate for entry in entries):
            gallery = OpenDomain(folder, manifest, name)
            effort = least_effort(gallery, queries, draft.recall)
            entries = [_asking(entry, effort) for entry in entries]
            recalls += [
                PairRecall(query=query, gallery=name, k=K, recall=round(share, 4))
                for query, share in measured(gallery, queries, effort).items()
            ]
        shards += entries
    return replace(draft, shards=shards, recalls=recalls)


def _asking(entry: ShardEntry, effort: Effort) -> ShardEntry:
    if entry.approximate is None:
        return entry
    approximate = entry.approximate.model_copy(update=effort._asdict())
    return entry.model_copy(update={"approximate": approximate})


def _scores(
    gallery: OpenDomain, queries: np.ndarray, exact: bool = False, effort: Effort | None = None
) -> np.ndarray:
    """Float32 (Q, K), descending; -inf for what is missing."""
    scores = np.full((len(queries), K), -np.inf, np.float32)
    for row, hits in zip(scores, gallery.search(queries, K, exact, effort), strict=True):
        row[: len(hits)] = [hit.score for hit in hits]
    return scores


def _share(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean over queries of the share of the exact answer that was found."""
    there = np.isfinite(truth)
    tenth = np.where(there, truth, np.inf).min(axis=1, keepdims=True)
    return float(((found >= tenth) & np.isfinite(found)).sum() / there.sum())
