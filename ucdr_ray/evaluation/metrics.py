"""The retrieval metrics, one definition each, as functions of where the relevant gallery images rank.

Notation: ``R_q`` is the number of gallery images with the label of query q, ``r_1 < r_2 < …`` their ranks from 1.
A gallery shorter than k leaves k in the denominator of ``precision@k``: results that are missing are wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RankSummary:
    """What the metrics need to know of each of Q labelled queries; K is the number of cut-offs k.

    Attributes:
        cutoffs: int64 (K,), each at least 1.
        relevant: int64 (Q,), ``R_q``.
        average_precision: float64 (Q,), ``1/R_q sum_i i/r_i``; 0 where ``R_q = 0``.
        hits: int64 (Q, K), relevant images in the top k.
        capped_hits: int64 (Q, K), relevant images in the top ``min(k, R_q)``.
        precision_sum: float64 (Q, K), ``sum of i/r_i over r_i <= k``.
    """

    cutoffs: np.ndarray
    relevant: np.ndarray
    average_precision: np.ndarray
    hits: np.ndarray
    capped_hits: np.ndarray
    precision_sum: np.ndarray

    @classmethod
    def zeros(cls, relevant: np.ndarray, cutoffs: Sequence[int]) -> "RankSummary":
        """The summary of queries that find nothing; `record` enters what each of them finds."""
        shape = (len(relevant), len(cutoffs))
        hits, capped = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        ks = np.asarray(cutoffs, np.int64)
        return cls(ks, relevant, np.zeros(shape[0]), hits, capped, np.zeros(shape))

    def record(self, queries: np.ndarray, relevant: np.ndarray) -> None:
        """Enter some queries: int (G,), each with ``R_q > 0``; bool (G, N): is the n-th of its results relevant?"""
        counts = self.relevant[queries]
        starts = counts.cumsum() - counts
        ranks = np.flatnonzero(relevant) - (np.arange(len(queries)) * relevant.shape[1] - 1).repeat(counts)
        precisions = (np.arange(1, len(ranks) + 1) - starts.repeat(counts)) / ranks
        self.average_precision[queries] = np.add.reduceat(precisions, starts) / counts

        top = relevant[:, : self.cutoffs.max()]
        found = top.cumsum(axis=1)
        sums = (found / np.arange(1, top.shape[1] + 1) * top).cumsum(axis=1)
        last = np.minimum(self.cutoffs, top.shape[1]) - 1
        self.hits[queries], self.precision_sum[queries] = found[:, last], sums[:, last]
        capped = np.minimum(self.cutoffs, counts[:, None]) - 1
        self.capped_hits[queries] = np.take_along_axis(found, capped, axis=1)


def precision(summary: RankSummary) -> np.ndarray:
    """``precision@k`` (plain; TKI): relevant in the top k / k, mean over all labelled queries. Float64 (K,)."""
    return summary.hits.mean(axis=0) / summary.cutoffs


def capped_precision(summary: RankSummary) -> np.ndarray:
    """``capped_precision@k`` (UCDIR, DUDE): relevant in the top min(k, R_q), summed, / sum of min(k, R_q). (K,)."""
    possible = np.minimum(summary.relevant[:, None], summary.cutoffs)
    return summary.capped_hits.sum(axis=0) / possible.sum(axis=0)


def map_all(summary: RankSummary) -> float:
    """``map@all``: average precision over the whole gallery, mean over the queries with ``R_q > 0``."""
    return float(summary.average_precision[summary.relevant > 0].mean())


def map_at(summary: RankSummary) -> np.ndarray:
    """``map@k``: average precision over the top k / min(k, R_q), mean over the queries with ``R_q > 0``. (K,)."""
    answerable = summary.relevant > 0
    possible = np.minimum(summary.relevant[answerable, None], summary.cutoffs)
    return (summary.precision_sum[answerable] / possible).mean(axis=0)


_AT_K: dict[str, Callable[[RankSummary], np.ndarray]] = {
    "precision": precision,
    "capped_precision": capped_precision,
    "map": map_at,
}


def all_metrics(summary: RankSummary) -> dict[str, float | None]:
    """Every metric by name, fractions from 0 to 1; None where no query allows it (none labelled, none relevant)."""
    queries, answerable = len(summary.relevant), int((summary.relevant > 0).sum())
    values: dict[str, float | None] = {"map@all": map_all(summary) if answerable else None}
    for name, metric in _AT_K.items():
        defined = queries if name == "precision" else answerable
        at_k = metric(summary) if defined else [None] * len(summary.cutoffs)
        for k, value in zip(summary.cutoffs, at_k, strict=True):
            values[f"{name}@{k}"] = None if value is None else float(value)
    return values
