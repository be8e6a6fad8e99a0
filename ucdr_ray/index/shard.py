"""An exact shard: FAISS finds candidates in float32, float64 dot products decide the order."""

from collections.abc import Iterable
from pathlib import Path

import faiss
import numpy as np

from ucdr_ray.errors import UserError
from ucdr_ray.index.manifest import ShardEntry

_SPARE = 16  # fetched beyond k at first, so that ties at the k-th place seldom need a second search


def write_exact(path: Path, dim: int, batches: Iterable[np.ndarray]) -> None:
    """Write float32 (B, dim) batches of unit rows as a FAISS flat inner-product index."""
    index = faiss.IndexFlatIP(dim)
    for batch in batches:
        index.add(batch)
    faiss.write_index(index, str(path))


class ExactShard:
    """The vectors of one shard, in memory. Reading is thread-safe; FAISS threads are the caller's choice."""

    def __init__(self, path: Path, entry: ShardEntry, dim: int) -> None:
        """Load a file whose checksum was verified: FAISS itself notices only some damage.

        Raises:
            UserError: it is no flat inner-product index of the manifest's size.
        """
        try:
            index = faiss.read_index(str(path))
        except RuntimeError:
            raise UserError(f"bad index shard {path}: not a FAISS index") from None
        if not isinstance(index, faiss.IndexFlatIP) or (index.ntotal, index.d) != (entry.rows, dim):
            raise UserError(f"bad index shard {path}: not a flat inner-product index of {entry.rows} × {dim}")
        self.entry = entry
        self._index = index

    def search(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Every row that scores at least as high as the k-th best, so that ties can be broken by id outside.

        Args:
            queries: float32 (Q, dim), unit rows.
            k: at least 1; all rows if larger than the shard.

        Returns:
            Per query: scores float32 (n,), the cosine in float64 rounded once, and slots int64 (n,), n >= min(k, rows);
            in no order.
        """
        answers: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(queries)
        k = min(k, self.entry.rows)
        # |float32 dot product - true one| <= d 2^-24 for unit vectors, in any order of summing; doubled
        tolerance = 2 * self._index.d * 2.0**-24
        pending, fetch = np.arange(len(queries)), k + _SPARE
        while pending.size:
            fetch = min(fetch, self.entry.rows)
            rough, rows = self._index.search(queries[pending], fetch)
            again = []
            for place, query in enumerate(pending):
                scores = self._score(queries[query], rows[place])
                worst = np.partition(scores, -k)[-k]
                if fetch < self.entry.rows and rough[place, -1] + tolerance >= worst:
                    again.append(query)  # a row that was not fetched might reach the k-th score
                else:
                    keep = scores >= worst
                    answers[query] = scores[keep], rows[place][keep] + self.entry.first_slot
            pending, fetch = np.array(again, dtype=np.int64), fetch * 4
        return answers

    def _score(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines float32 (n,) of (dim,) with stored rows. Equal rows get equal scores: each is summed in one order."""
        vectors = self._index.reconstruct_batch(rows).astype(np.float64)
        return (vectors * query.astype(np.float64)).sum(axis=1).astype(np.float32)
