"""Answers of an index, judged: is what the query shows in the domains asked at all? See `ucdr_ray.index.open_set`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ucdr_ray.errors import UserError
from ucdr_ray.index.merge import Hit
from ucdr_ray.index.open_set import Verdict
from ucdr_ray.index.search import Index


@dataclass(frozen=True)
class Judged:
    """Of one query. ``domain``: what it is from, as was said or, where ``inferred``, as it looks; None: none known.

    ``verdicts``: by domain asked; without those that can't be judged, such as the query's own.
    """

    domain: str | None
    inferred: bool
    verdicts: dict[str, Verdict]

    def kept(self, by_domain: Mapping[str, list[Hit]]) -> dict[str, list[Hit]]:
        """What was found, without what is from domains that have nothing of the kind."""
        return {
            name: [] if name in self.verdicts and self.verdicts[name].null else hits
            for name, hits in by_domain.items()
        }

    def told(self) -> dict[str, Any]:
        """For programs."""
        return {
            "query_domain": self.domain,
            "inferred": self.inferred,
            "by_domain": {
                name: {"null": one.null, "distance": one.distance, "threshold": one.threshold}
                for name, one in self.verdicts.items()
            },
        }

    def reason(self, asked: Sequence[str]) -> str | None:
        """Why nothing in any of the domains asked matches; None where something may."""
        assert self.domain is not None or not self.verdicts
        if not asked or not all(name in self.verdicts and self.verdicts[name].null for name in asked):
            return None
        return "; ".join(self.verdicts[name].reason(str(self.domain), name) for name in asked)


def judge(
    index: Index, queries: np.ndarray, found: Sequence[Mapping[str, list[Hit]]], domain: str | None = None
) -> list[Judged] | None:
    """Judge what was found for unit rows (Q, dim), by domain; None if the index does not know what domains share.

    Args:
        domain: that all queries are from; of each the one that it looks like, without it. A name that the index does
            not know is allowed, and then nothing is judged.
    """
    if index.open_set is None or index.manifest.common is None:
        return None
    known, quantile = index.open_set, index.manifest.common.quantile
    names = known.domains_of(queries) if domain is None else [domain] * len(queries)
    verdicts: list[dict[str, Verdict]] = [{} for _ in names]
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, (name, by_domain) in enumerate(zip(names, found, strict=True)):
        for gallery, hits in by_domain.items():
            if name is not None and (name, gallery) in known.distances and hits:
                alike[name, gallery].append(number)
    for (name, gallery), numbers in alike.items():
        cosines = np.array([found[number][gallery][0].score for number in numbers])
        for number, verdict in zip(
            numbers, known.judge(queries[numbers], name, gallery, cosines, quantile), strict=True
        ):
            verdicts[number][gallery] = verdict
    return [
        Judged(name if name in known.known else None, domain is None, some)
        for name, some in zip(names, verdicts, strict=True)
    ]


def check_quantile(quantile: float) -> None:
    """Raise UserError unless it is a share."""
    if not 0 <= quantile <= 1:
        raise UserError(f"--null-quantile {quantile:g}: allowed are shares from 0 to 1")
