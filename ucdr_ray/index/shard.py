"""A shard in memory: FAISS finds candidates, float64 dot products with the stored vectors decide score and order."""

from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

from ucdr_ray.errors import UserError
from ucdr_ray.index import kinds
from ucdr_ray.index.kinds import Effort
from ucdr_ray.index.manifest import ShardEntry
from ucdr_ray.index.merge import Candidates, best
from ucdr_ray.index.metadata import Metadata

_PRODUCTS = 1 << 20  # float64 in memory at once while candidates are scored
_SPARE = 16  # fetched beyond k at first, so that ties at the k-th place seldom need a second search


class Shard:
    """The rows of one shard. Its vectors are mapped from their file, which processes of a machine share.

    Searching is thread-safe; how many threads FAISS takes is the caller's choice.
    """

    def __init__(self, folder: Path, entry: ShardEntry, dim: int) -> None:
        """Open files whose checksums were verified: FAISS itself notices only some damage.

        Args:
            folder: the version's.

        Raises:
            UserError: a file is not what the manifest says.
        """
        self.entry = entry
        self.metadata = Metadata(folder / entry.metadata.file, entry.domain, entry.first_slot, entry.rows)
        self._flat = _flat(folder / entry.vectors.file, entry.rows, dim)
        self._vectors = faiss.rev_swig_ptr(self._flat.get_xb(), entry.rows * dim).reshape(entry.rows, dim)
        self._kept, self._only = _kept(folder, entry)
        if entry.approximate is not None:
            self._approximate = kinds.read(
                folder / entry.approximate.file, entry.approximate.kind, self._flat
            )

    def search(
        self, queries: np.ndarray, k: int, exact: bool = False, effort: Effort | None = None
    ) -> list[Candidates]:
        """The k best rows found, equal scores in the order of ids.

        Args:
            queries: float32 (Q, dim), unit rows.
            k: at least 1; all rows if larger than the shard.
            exact: compare with every row, also where the shard has a shortcut.
            effort: other than the one chosen when the version was made.

        Returns:
            Per query min(k, rows that can be found) of them if exact, perhaps fewer if not; scores are the cosine in
            float64, rounded once.
        """
        k = min(k, self.entry.live)
        if k == 0:
            return [self._candidates(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
        if exact or self.entry.approximate is None:
            return self._exact(queries, k)
        chosen = effort or Effort(self.entry.approximate.effort, self.entry.approximate.fetch)
        return self._nearly(queries, k, chosen)

    def vectors(self, slots: np.ndarray) -> np.ndarray:
        """Float32 (n, dim)."""
        return np.asarray(self._vectors[slots - self.entry.first_slot])

    @property
    def slots(self) -> np.ndarray:
        """Slots int64 of the rows that can be found, ascending."""
        return np.flatnonzero(self._kept) + self.entry.first_slot

    def find(self, id_: bytes) -> int | None:
        """The slot of an image, if it can be found."""
        row = self.metadata.row(id_)
        return self.entry.first_slot + row if row is not None and self._kept[row] else None

    def ids(self, slots: np.ndarray) -> np.ndarray:
        """Bytes (n,)."""
        return np.asarray(self.metadata.ids[slots - self.entry.first_slot])

    @property
    def most_effort(self) -> int:
        """See `kinds.most_effort`."""
        assert self.entry.approximate is not None
        return kinds.most_effort(self.entry.approximate.kind, self._approximate)

    def _exact(self, queries: np.ndarray, k: int) -> list[Candidates]:
        answers: list[Candidates | None] = [None] * len(queries)
        # |float32 dot product - true one| <= d 2^-24 for unit vectors, in any order of summing; doubled
        tolerance = 2 * self._flat.d * 2.0**-24
        only = None if self._only is None else faiss.SearchParameters(sel=self._only)
        pending, fetch = np.arange(len(queries)), k + _SPARE
        while pending.size:
            fetch = min(fetch, self.entry.live)
            rough, rows = self._flat.search(queries[pending], fetch, params=only)
            again = []
            for place, query in enumerate(pending):
                scores = self._score(queries[query], rows[place])
                worst = np.partition(scores, -k)[-k]
                if fetch < self.entry.live and rough[place, -1] + tolerance >= worst:
                    again.append(query)  # a row that was not fetched might reach the k-th score
                else:
                    keep = scores >= worst  # with all ties
                    found = self._candidates(scores[keep], rows[place][keep])
                    answers[query] = best([found], k)
            pending, fetch = np.array(again, dtype=np.int64), fetch * 4
        return [answer for answer in answers if answer is not None]

    def _nearly(self, queries: np.ndarray, k: int, effort: Effort) -> list[Candidates]:
        assert self.entry.approximate is not None
        # With fewer candidates than the effort was chosen with, recall would be less than stated.
        fetch = min(max(k, kinds.K) * effort.fetch, self.entry.live)
        kind = self.entry.approximate.kind
        found = kinds.candidates(kind, self._approximate, queries, fetch, effort.effort, self._only)
        answers = []
        at_once = max(1, _PRODUCTS // (fetch * self._flat.d))
        for start in range(0, len(queries), at_once):
            rows = found[start : start + at_once]
            there = rows >= 0
            products = self._vectors[rows].astype(np.float64)  # of row -1 too, which is left out below
            products *= queries[start : start + at_once, None]
            scores = np.where(there, products.sum(axis=2), -np.inf).astype(np.float32)
            slots, ids = rows + self.entry.first_slot, self.metadata.ids[rows]
            order = np.lexsort((slots, ids, -scores))[:, :k] + fetch * np.arange(len(rows))[:, None]
            columns = (column.ravel()[order] for column in (scores, slots, ids))
            counts = np.minimum(there.sum(axis=1), k).tolist()
            answers += [
                Candidates(score[:count], slot[:count], id_[:count])
                for score, slot, id_, count in zip(*columns, counts, strict=True)
            ]
        return answers

    def _score(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines float32 (n,) of (dim,) with stored rows. Equal rows get equal scores: each is summed in one order."""
        products = self._vectors[rows].astype(np.float64)
        products *= query
        return np.asarray(products.sum(axis=1), np.float32)

    def _candidates(self, scores: np.ndarray, rows: np.ndarray) -> Candidates:
        return Candidates(scores, rows + self.entry.first_slot, self.metadata.ids[rows])


def some_ids(folder: Path, entry: ShardEntry, count: int) -> list[str]:
    """Ids of ``count`` rows that can be found, or of all, evenly over a shard that need not be opened."""
    kept, _ = _kept(folder, entry)
    slots = np.flatnonzero(kept)
    chosen = slots[np.linspace(0, len(slots) - 1, min(count, len(slots))).astype(int)]
    column = pq.read_table(folder / entry.metadata.file, columns=["id"])["id"]
    return [str(column[int(row)]) for row in chosen]


def one_thread() -> None:
    """Let FAISS search with the calling thread alone, in this process: others would spin, and slow each other down."""
    faiss.omp_set_num_threads(1)


def _flat(path: Path, rows: int, dim: int) -> faiss.IndexFlatIP:
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError:
        raise UserError(f"bad index shard {path}: not a FAISS index") from None
    if not isinstance(index, faiss.IndexFlatIP) or (index.ntotal, index.d) != (rows, dim):
        raise UserError(f"bad index shard {path}: not a flat inner-product index of {rows} × {dim}")
    return index


def _kept(folder: Path, entry: ShardEntry) -> tuple[np.ndarray, faiss.IDSelector | None]:
    """Which rows can be found, bool (rows,), and the same for FAISS; None for all."""
    kept = np.ones(entry.rows, bool)
    if entry.deleted is None:
        return kept, None
    path = folder / entry.deleted.file
    slots = pq.read_table(path, columns=["slot"])["slot"].to_numpy() - entry.first_slot
    inside = (slots >= 0) & (slots < entry.rows)
    if len(slots) != entry.deleted.rows or not inside.all() or len(np.unique(slots)) != len(slots):
        raise UserError(f"bad index shard {path}: not {entry.deleted.rows} slots of its shard")
    kept[slots] = False
    return kept, faiss.IDSelectorBitmap(np.packbits(kept, bitorder="little"))
