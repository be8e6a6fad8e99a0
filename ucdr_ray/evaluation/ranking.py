"""Which of the gallery is relevant, best first, block by block: never queries × gallery in memory, and no argsort.

A metric asks of the ranking only where the relevant images stand. So a score's last bit is given up to say whether its
image is relevant, and the scores are sorted as plain numbers, several times cheaper than an argsort. The places where
that bit decided an order are looked up and put right; a row with many of them is sorted again, at twice the width.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ucdr_ray.evaluation.metrics import RankSummary
from ucdr_ray.threads import each

BLOCK_BYTES = 8 * 2**20  # fits in the cache beside what sorts it
# From 16 rows on, torch's matrix product rounds a score alike wherever its row and its column stand.
_ROW_MULTIPLE = 16
_ROWS_AT_ONCE = 16
# Among 10,000 float32 scores around 0 a pair or two nearly tie by chance. More do where the scores crowd, in a larger
# gallery, among doubles and codes: from here on sorting the whole row again is the cheaper way.
_FEW_DOUBTS = 8


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
    starts = np.searchsorted(gallery_labels, query_labels, sorter=by_label)
    stops = np.searchsorted(gallery_labels, query_labels, side="right", sorter=by_label)
    stops = np.where(query_labels < 0, starts, stops)
    summary = RankSummary.zeros(stops - starts, cutoffs)
    answerable = np.flatnonzero(summary.relevant)
    if not len(answerable):
        return summary

    # Negated, so that ascending order is best first; padded, so that every product has the same shape.
    threads = torch.get_num_threads()
    height = max(1, block_bytes // (4 * len(gallery) * _ROW_MULTIPLE * threads)) * _ROW_MULTIPLE
    height = min(height, -(-len(answerable) // _ROW_MULTIPLE) * _ROW_MULTIPLE)
    columns = torch.from_numpy(gallery[by_label].astype(np.float32, copy=False)).T

    def rank_block(first: int) -> None:
        asked = answerable[first : first + height]
        block = torch.zeros(height, queries.shape[1])
        block[: len(asked)] = torch.from_numpy(-queries[asked])
        scores = torch.mm(block, columns).numpy()[: len(asked)]
        for row in range(0, len(asked), _ROWS_AT_ONCE):
            some = slice(row, row + _ROWS_AT_ONCE)
            spans = starts[asked[some]], stops[asked[some]]
            summary.record(asked[some], _relevant_in_order(scores[some], *spans, by_label))

    each(rank_block, range(0, len(answerable), height))
    return summary


def _relevant_in_order(
    scores: np.ndarray, starts: np.ndarray, stops: np.ndarray, tie_order: np.ndarray
) -> np.ndarray:
    """Bool (G, N): is the n-th of each row's images relevant, lowest score first?

    Args:
        scores: float32 (G, N). starts, stops: int (G,), the columns ``start <= c < stop`` are relevant to a row.
        tie_order: int (N,), a permutation: of equal scores the column with the lower number comes first.
    """
    keys = _sortable(scores)
    keys &= -2
    ordered = keys.copy()
    for row, start, stop in zip(ordered, starts.tolist(), stops.tolist(), strict=True):
        row[start:stop] |= 1
    ordered.sort(axis=1)
    relevant = np.bitwise_and(ordered, 1, dtype=np.uint8, casting="unsafe").view(bool)

    # Neighbours that differ in the last bit alone are in doubt: it may have been the score's, and it breaks ties.
    in_doubt = np.flatnonzero(ordered[:, 1:] ^ ordered[:, :-1] == 1)
    rows, places = divmod(in_doubt, max(scores.shape[1] - 1, 1))
    doubts = np.bincount(rows, minlength=len(scores))
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        if doubts[row] <= _FEW_DOUBTS:
            key = ordered[row, place]
            columns = np.flatnonzero(keys[row] == key)
            first = ordered[row].searchsorted(key)
            columns = columns[np.lexsort((tie_order[columns], scores[row, columns]))]
            found = (starts[row] <= columns) & (columns < stops[row])
            relevant[row, first : first + len(columns)] = found
    if doubts.max() > _FEW_DOUBTS:
        column_of = np.argsort(tie_order)
        for row in np.flatnonzero(doubts > _FEW_DOUBTS):
            wide = _sortable(scores[row]).astype(np.int64) << 32
            wide |= tie_order
            wide.sort()
            columns = column_of[wide & 0xFFFFFFFF]
            relevant[row] = (starts[row] <= columns) & (columns < stops[row])
    return relevant


def _sortable(scores: np.ndarray) -> np.ndarray:
    """A new int32 array in the order of the float32 scores; -0.0 becomes 0.0, to which it is equal."""
    bits = (scores + np.float32(0)).view(np.int32)
    sign = bits >> 31
    sign &= 0x7FFFFFFF
    bits ^= sign
    return bits
