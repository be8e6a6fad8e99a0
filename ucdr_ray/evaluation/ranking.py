"""Ranks of the relevant images, block by block: never queries × gallery in memory, and no argsort.

A metric needs the ranks of the relevant images alone, and ``rank = 1 + relevant before + irrelevant before``: so the
irrelevant scores are sorted as plain numbers, several times cheaper than an argsort, and the relevant ones looked up.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ucdr_ray.evaluation.metrics import RankSummary

BLOCK_BYTES = 32 * 2**20
_ROWS_PER_TASK = 32
# Among 10,000 float32 scores a pair or two tie by chance; more than this is a gallery of doubles, or of codes.
_FEW_TIES = 32
# From 16 rows on, torch's matrix product rounds a score alike wherever its row and column stand.
_ROW_MULTIPLE = 16


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
        query_labels: int (Q,), gallery_labels: int (N,); a negative gallery label is relevant to no query.
        cutoffs: the values of k to summarise at.
        block_bytes: size of one block of scores; memory is about twice that, and the result does not depend on it.

    Raises:
        ValueError: a vector is not finite, or widths differ.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("vectors to rank must be finite")
    by_label = np.argsort(gallery_labels, kind="stable")
    labels, starts = np.unique(gallery_labels[by_label], return_index=True)
    columns = dict(zip(labels.tolist(), np.split(by_label, starts[1:]), strict=True))
    relevant_columns = [columns.get(label) if label >= 0 else None for label in query_labels.tolist()]
    counts = np.array([0 if found is None else len(found) for found in relevant_columns], np.int64)
    summary = RankSummary.zeros(counts, cutoffs)

    rows = block_bytes // (4 * max(1, len(gallery))) // _ROW_MULTIPLE * _ROW_MULTIPLE
    rows = min(max(rows, _ROW_MULTIPLE), -(-len(queries) // _ROW_MULTIPLE) * _ROW_MULTIPLE)
    # Negated, so that ascending order is best first.
    negated = torch.zeros(-(-len(queries) // rows) * rows if rows else 0, queries.shape[1])
    negated[: len(queries)] = -torch.from_numpy(np.ascontiguousarray(queries, np.float32))
    columns_of_gallery = torch.from_numpy(np.ascontiguousarray(gallery, np.float32)).T
    scores = torch.empty(rows, len(gallery))

    def rank_rows(first: int, start: int) -> None:
        for row in range(start, min(start + _ROWS_PER_TASK, rows, len(queries) - first)):
            found = relevant_columns[first + row]
            if found is not None:
                summary.record(first + row, _ranks(scores_array[row], found))

    scores_array = scores.numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for first in range(0, len(queries), max(rows, 1)):
            torch.mm(negated[first : first + rows], columns_of_gallery, out=scores)
            list(pool.map(lambda start, first=first: rank_rows(first, start), range(0, rows, _ROWS_PER_TASK)))
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
    values = np.unique(relevant[tied])
    if len(values) > _FEW_TIES:
        return np.flatnonzero(np.isin(np.argsort(row, kind="stable"), relevant_columns)) + 1
    for value in values:
        equal = np.flatnonzero(row == value)
        own = relevant_columns[row[relevant_columns] == value]
        start = relevant.searchsorted(value)
        ranks[start : start + len(own)] += equal.searchsorted(own) - np.arange(len(own))
    return ranks
