"""Ranks of the relevant images, block by block: never queries × gallery in memory, and no argsort.

A metric needs the ranks of the relevant images alone, and ``rank = 1 + relevant before + irrelevant before``: so the
irrelevant scores are sorted as plain numbers, several times cheaper than an argsort, and the relevant ones looked up.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ucdr_ray.evaluation.metrics import RankSummary

BLOCK_BYTES = 8 * 2**20  # fits in the cache beside what sorts it
# From 16 rows on, torch's matrix product rounds a score alike wherever its row and its column stand.
_ROW_MULTIPLE = 16
_ROWS_PER_TASK = 16
# Among 10,000 float32 scores a few pairs tie by chance; more than this is a gallery of doubles, or of codes.
_FEW_TIES = 32


def rank_relevant(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    cutoffs: Sequence[int],
    block_bytes: int = BLOCK_BYTES,
) -> RankSummary:
    """Rank the gallery for every query by dot product, descending; of equal scores the lower gallery row comes first.

    Args:
        queries: float32 (Q, d). gallery: float32 (N, d), rows in the order that breaks ties.
        query_labels: int (Q,), gallery_labels: int (N,); a negative label is relevant to nothing.
        cutoffs: the values of k to summarise at.
        block_bytes: size of a block of scores, which is nearly all the memory used; the result does not depend on it.

    Raises:
        ValueError: a vector is not finite.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("vectors to rank must be finite")
    by_label = np.argsort(gallery_labels, kind="stable")
    labels, starts = np.unique(gallery_labels[by_label], return_index=True)
    columns = dict(zip(labels.tolist(), np.split(by_label, starts[1:]), strict=True))
    columns = {label: found for label, found in columns.items() if label >= 0}
    counts = [len(columns.get(label, ())) for label in query_labels.tolist()]
    summary = RankSummary.zeros(np.array(counts, np.int64), cutoffs)
    answerable = np.flatnonzero(summary.relevant)
    if not len(answerable):
        return summary

    def rank_rows(rows: slice) -> None:
        for query, row in zip(chosen[rows].tolist(), scores.numpy()[rows], strict=False):
            summary.record(query, _ranks(row, columns[int(query_labels[query])]))

    # Negated, so that ascending order is best first; padded, so that every product has the same shape.
    height = max(1, block_bytes // (4 * len(gallery) * _ROW_MULTIPLE)) * _ROW_MULTIPLE
    height = min(height, -(-len(answerable) // _ROW_MULTIPLE) * _ROW_MULTIPLE)
    block = torch.zeros(height, queries.shape[1])
    scores = torch.empty(height, len(gallery))
    transposed = torch.from_numpy(np.ascontiguousarray(gallery, np.float32)).T
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for first in range(0, len(answerable), height):
            chosen = answerable[first : first + height]
            block[: len(chosen)] = torch.from_numpy(-queries[chosen])
            torch.mm(block, transposed, out=scores)
            tasks = [slice(start, start + _ROWS_PER_TASK) for start in range(0, len(chosen), _ROWS_PER_TASK)]
            list(pool.map(rank_rows, tasks))
    return summary


def _ranks(row: np.ndarray, relevant_columns: np.ndarray) -> np.ndarray:
    """Ascending int64 (R,) ranks, from 1, of the columns (ascending) of ``row`` (N,), lowest value first."""
    relevant = row[relevant_columns]
    irrelevant = row.copy()
    irrelevant[relevant_columns] = np.inf
    irrelevant.sort()  # the relevant ones, now infinite, end up last, where nothing is looked up
    relevant.sort()
    before = irrelevant.searchsorted(relevant)
    ranks = before + np.arange(1, len(relevant) + 1)
    tied = irrelevant[before] == relevant
    if not tied.any():
        return ranks
    values = set(relevant[tied].tolist())
    if len(values) > _FEW_TIES:
        return np.flatnonzero(np.isin(np.argsort(row, kind="stable"), relevant_columns)) + 1
    for value in values:
        equal = np.flatnonzero(row == value)
        own = relevant_columns[row[relevant_columns] == value]
        start = relevant.searchsorted(value)
        ranks[start : start + len(own)] += equal.searchsorted(own) - np.arange(len(own))
    return ranks
