"""How much of the exact answer shortcuts find, and how hard they must search for it.

Recall is measured for queries of every domain in every other: features of one domain lie aside of another's, so that a
shortcut which is good for a domain's own images may be bad for all that anyone asks. Queries are rows of the index; a
row equal to its query does not count, since every shortcut finds it. Each sample is taken as two halves, and the lower
of their recalls counts: an effort that was chosen by a sample is flattered by it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ucdr_ray.errors import JobError
from ucdr_ray.index.kinds import FETCHES, Effort, K
from ucdr_ray.index.learn import drawn
from ucdr_ray.index.manifest import Manifest, PairRecall, ShardEntry
from ucdr_ray.index.publish import Draft
from ucdr_ray.index.shard import Shard, live_slots
from ucdr_ray.index.source import Built

QUERIES = 400  # of each domain, in two halves
_CLOSE = 1.25  # the effort found is at most this many times the least
_EQUAL = 1 - 1e-6  # the cosine from which a row is the query itself, or its copy

Tops = dict[
    str, np.ndarray
]  # by the queries' domain, the best scores float32 (Q, K + 1), descending; -inf for none


def with_efforts(draft: Draft, folder: Path) -> Draft:
    """The draft with the least efforts that reach its recall, and what they reach, for domains that have shortcuts.

    Shards are opened one at a time; a domain's answer is the best of what its shards find.

    Args:
        folder: where its files lie.

    Raises:
        JobError: the recall is out of reach.
    """
    if not any(entry.approximate for entry in draft.shards):
        return replace(draft, recalls=[])
    manifest = draft.manifest()
    queries = _queries(manifest, folder)
    shards: list[ShardEntry] = []
    recalls: list[PairRecall] = []
    for name in queries:
        entries = [entry for entry in manifest.shards_of(name) if entry.live]
        truth, found, missed = _none(queries), _none(queries), False
        for entry in entries:
            shard = Shard(folder, entry, manifest.dim)
            there = tops(shard, queries)
            if entry.approximate is None:
                seen = there
            else:
                effort, reached = least_effort(shard, queries, there, draft.recall)
                missed |= not reached
                entry = _asking(entry, effort)
                seen = tops(shard, queries, effort)
            truth, found = _both(truth, there), _both(found, seen)
            shards.append(entry)
        shares = {query: share(truth[query], found[query]) for query in queries}
        if missed and min(shares.values()) < draft.recall:
            raise JobError(
                f"{draft.kind} finds {min(shares.values()):.1%} of the exact top {K} in {name} at the most, less than "
                f"the {draft.recall:.1%} asked for: not published"
            )
        if any(entry.approximate for entry in entries):
            recalls += [
                PairRecall(query=query, gallery=name, k=K, recall=round(value, 4))
                for query, value in shares.items()
            ]
    empty = [entry for entry in draft.shards if not entry.live]
    return replace(draft, shards=[*shards, *empty], recalls=recalls)


def least_effort(
    shard: Shard, queries: Mapping[str, np.ndarray], truth: Tops, recall: float
) -> tuple[Effort, bool]:
    """The smallest effort with which every domain's queries reach ``recall`` in a shard; else the most, and False.

    Args:
        queries: by domain, float32 (Q, dim) unit rows.
        truth: what they find by comparing with all rows.
    """
    most = shard.most_effort

    def reaches(effort: Effort) -> bool:
        found = tops(shard, queries, effort)
        return all(share(truth[name], found[name]) >= recall for name in queries)

    for fetch in FETCHES[shard.entry.kind]:
        if not reaches(Effort(most, fetch)):
            continue
        low, high = 0, 1
        while high < most and not reaches(Effort(high, fetch)):
            low, high = high, min(2 * high, most)
        while high > _CLOSE * max(low, 1) and high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(Effort(middle, fetch)) else (middle, high)
        return Effort(high, fetch), True
    return Effort(most, fetch), False


def tops(shard: Shard, queries: Mapping[str, np.ndarray], effort: Effort | None = None) -> Tops:
    """Scores of the best rows of a shard; exact without an effort."""
    found = _none(queries)
    for name, rows in queries.items():
        for scores, top in zip(
            found[name], shard.search(rows, K + 1, exact=effort is None, effort=effort), strict=True
        ):
            scores[: len(top.scores)] = top.scores
    return found


def share(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean over queries of the share of the exact top 10 that was found, in the half where it is lower.

    A row that scores as high as the tenth counts, whichever of equals was found.

    Args:
        truth, found: as `Tops` has them.
    """
    truth, found = _without_equals(truth), _without_equals(found)
    there = np.isfinite(truth)
    tenth = np.where(there, truth, np.inf).min(axis=1, keepdims=True)
    right = (found >= tenth) & np.isfinite(found)
    halves = (slice(0, None, 2), slice(1, None, 2))
    return min(
        (float(right[half].sum() / there[half].sum()) for half in halves if there[half].any()), default=1.0
    )


def _without_equals(scores: np.ndarray) -> np.ndarray:
    """(Q, K)."""
    return -np.sort(-np.where(scores >= _EQUAL, -np.inf, scores), axis=1)[:, :K]


def _both(tops: Tops, more: Tops) -> Tops:
    return {name: -np.sort(-np.hstack([tops[name], more[name]]), axis=1)[:, : K + 1] for name in tops}


def _none(queries: Mapping[str, np.ndarray]) -> Tops:
    return {name: np.full((len(rows), K + 1), -np.inf, np.float32) for name, rows in queries.items()}


def _queries(manifest: Manifest, folder: Path) -> dict[str, np.ndarray]:
    """A sample of each domain's rows, if it has any."""
    source = Built(folder, manifest)
    slots = {name: live_slots(folder, manifest.shards_of(name)) for name in manifest.domains}
    return {name: drawn(source, {name: some}, QUERIES) for name, some in slots.items() if len(some)}


def _asking(entry: ShardEntry, effort: Effort) -> ShardEntry:
    assert entry.approximate is not None
    approximate = entry.approximate.model_copy(update=effort._asdict())
    return entry.model_copy(update={"approximate": approximate})
