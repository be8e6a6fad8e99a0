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

_PRODUCTS = 1 << 18  # float64 in memory at once while candidates are scored
_SPARE = 16  # fetched beyond k at first, so that ties at the k-th place seldom need a second search


class Shard:
    """The rows of one shard. Its vectors are mapped from their file, which processes of a machine share.

    Searching is thread-safe; how many threads FAISS takes is the caller's choice.
    """

    def __init__(self, folder: Path, entry: ShardEntry, dim: int, shortcut: bool = True) -> None:
        """Open files whose checksums were verified: FAISS itself notices only some damage.

        Args:
            folder: the version's.
            shortcut: false leaves it on disk, for those who read rows and search exactly.

        Raises:
            UserError: a file is not what the manifest says.
        """
        self.entry = entry
        self.metadata = Metadata(folder / entry.metadata.file, entry.domain, entry.first_slot, entry.rows)
        self._flat = _flat(folder / entry.vectors.file, entry.rows, dim)
        self._vectors = faiss.rev_swig_ptr(self._flat.get_xb(), entry.rows * dim).reshape(entry.rows, dim)
        self._kept, self._only = _kept(folder, entry)
        # |float32 dot product - true one| <= d 2^-24 for unit vectors, in any order of summing; doubled
        self._tolerance = 2 * (dim + 1) * 2.0**-24
        if entry.approximate is not None and shortcut:
            self._approximate = kinds.read(
                folder / entry.approximate.file, entry.approximate.kind, entry.rows, dim
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
            Per query min(k, rows that can be found) of them; scores are the cosine in float64, rounded once. Where
            the shortcut finds fewer, all rows are compared, unless an effort was given.
        """
        k = min(k, self.entry.live)
        if k == 0:
            return [self._candidates(np.empty(0, np.float32), np.empty(0, np.int64))] * len(queries)
        if exact or self.entry.approximate is None or k == self.entry.live:
            return self._exact(queries, k)
        chosen = effort or Effort(self.entry.approximate.effort, self.entry.approximate.fetch)
        found = self._nearly(queries, k, chosen)
        short = [query for query, some in enumerate(found) if len(some.scores) < k]
        if short and effort is None:  # who tries efforts wants to see what they miss
            for query, all_of_them in zip(short, self._exact(queries[short], k), strict=True):
                found[query] = all_of_them
        return found

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
        only = None if self._only is None else faiss.SearchParameters(sel=self._only)
        pending, fetch = np.arange(len(queries)), k + _SPARE
        while pending.size:
            fetch = min(fetch, self.entry.live)
            rough, rows = self._flat.search(queries[pending], fetch, params=only)
            again = []
            for place, query in enumerate(pending):
                scores = self._score(queries[query], rows[place])
                worst = np.partition(scores, -k)[-k]
                if fetch < self.entry.live and rough[place, -1] + self._tolerance >= worst:
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
            if fetch > k + _SPARE:
                rows = self._narrowed(queries[start : start + at_once], rows, k)
            there = rows >= 0
            products = self._vectors[rows].astype(np.float64)  # of row -1 too, which is left out below
            products *= queries[start : start + at_once, None]
            scores = np.where(there, products.sum(axis=2), -np.inf).astype(np.float32)
            slots, ids = rows + self.entry.first_slot, self.metadata.ids[rows]
            order = np.lexsort((slots, ids, -scores))[:, :k] + rows.shape[1] * np.arange(len(rows))[:, None]
            columns = (column.ravel()[order] for column in (scores, slots, ids))
            counts = np.minimum(there.sum(axis=1), k).tolist()
            answers += [
                Candidates(score[:count], slot[:count], id_[:count])
                for score, slot, id_, count in zip(*columns, counts, strict=True)
            ]
        return answers

    def _narrowed(self, queries: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
        """Of candidates (Q, fetch), those that float32 can't tell from the k best, and as many for every query."""
        rough = np.einsum("qd,qfd->qf", queries, self._vectors[rows])
        rough[rows < 0] = -np.inf
        worst = np.partition(rough, -k, axis=1)[:, -k, None]
        most = (rough >= worst - self._tolerance).sum(axis=1).max()
        nearest = np.argpartition(-rough, most - 1, axis=1)[:, :most]
        return np.asarray(rows[np.arange(len(rows))[:, None], nearest])

    def _score(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines float32 (n,) of (dim,) with stored rows. Equal rows get equal scores: each is summed in one order."""
        products = self._vectors[rows].astype(np.float64)
        products *= query
        return np.asarray(products.sum(axis=1), np.float32)

    def _candidates(self, scores: np.ndarray, rows: np.ndarray) -> Candidates:
        return Candidates(scores, rows + self.entry.first_slot, self.metadata.ids[rows])


def some_ids(folder: Path, entry: ShardEntry, count: int) -> list[str]:
    """Ids of ``count`` rows that can be found, or of all, evenly over a shard that need not be opened."""
    rows = live_slots(folder, [entry]) - entry.first_slot
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    column = pq.read_table(folder / entry.metadata.file, columns=["id"])["id"]
    return [str(column[int(row)]) for row in chosen]


def live_slots(folder: Path, entries: list[ShardEntry]) -> np.ndarray:
    """Slots int64 of the rows that can be found in shards of one domain, which need not be opened, in their order."""
    return np.concatenate([np.flatnonzero(_kept(folder, entry)[0]) + entry.first_slot for entry in entries])


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
