"""Whether anything in the index matches. The rule of today: a score that the caller wants at least."""

from ucdr_ray.index.merge import Hit


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
