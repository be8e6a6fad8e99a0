"""What is said of what was found: the hits, or that nothing here matches, and why."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.looking import Looked, Wish
from serve.messages import Wishes
from ucdr_ray.index.judging import Judged, judge
from ucdr_ray.index.merge import Hit, merge


def told(
    looked: Sequence[Looked], vectors: np.ndarray, wish: Wish, wishes: Wishes, domain: str | None
) -> list[dict[str, Any]]:
    """The content of a `Found` for each of the queries, unit rows (Q, dim), all answered from one version.

    Args:
        domain: that all of them are from, if that is known.
    """
    judged = None
    if wishes.null == "on":
        judged = judge(looked[0].index, vectors, [one.by_domain for one in looked], domain)
    verdicts: Sequence[Judged | None] = [None] * len(looked) if judged is None else judged
    return [_told(one, wish, wishes, verdict) for one, verdict in zip(looked, verdicts, strict=True)]


def nothing_matches(hits: list[Hit], min_score: float | None) -> str | None:
    """Why nothing matches, or None where something may.

    Args:
        hits: the best of all domains asked, best first.
        min_score: cosine that a match has at least.
    """
    if not hits:
        return "there is no image in the domains asked"
    if min_score is not None and hits[0].score < min_score:
        return f"no image scores at least {min_score:g}; the nearest scores {hits[0].score:.3f}"
    return None


def _told(looked: Looked, wish: Wish, wishes: Wishes, judged: Judged | None) -> dict[str, Any]:
    by_domain = looked.by_domain if judged is None else judged.kept(looked.by_domain)
    hits = merge(by_domain.values(), wish.k)
    reason = judged.reason(wish.domains) if judged is not None else None
    reason = reason or nothing_matches(hits, wishes.min_score)
    if reason and looked.answered < looked.total:
        reason += f"; but only {looked.answered} of {looked.total} shards answered"
    return {
        "hits": [] if reason else _shown(hits, wishes.min_score),
        "by_domain": {
            name: [] if reason else _shown(some, wishes.min_score) for name, some in by_domain.items()
        },
        "null": {"reason": reason} if reason else None,
        "judged": None if judged is None else judged.told(),
    }


def _shown(hits: Sequence[Hit], min_score: float | None) -> list[dict[str, Any]]:
    return [
        {"id": hit.id, "domain": hit.domain, "score": hit.score, "source": hit.source}
        for hit in hits
        if min_score is None or hit.score >= min_score
    ]
