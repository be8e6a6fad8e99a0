"""Search in one domain of many: its own shard, or an index of all rows and a filter."""

import json
import statistics
import subprocess
import time
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from made_index import write_embeddings
from rich.console import Console
from rich.table import Table

from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.index import kinds
from ucdr_ray.index.build import build
from ucdr_ray.index.kinds import ApproximateKind, Effort, K
from ucdr_ray.index.search import Index

RECALL = 0.95
QUERIES = 20  # of each domain in each
TRIED, TIMED = 240, 48  # of them, with each effort
DEEPER = [K * 2**n for n in range(2, 14)]  # candidates of which few are of the domain
KINDS: tuple[ApproximateKind, ...] = ("ivf-flat", "ivf-pq")
Search = Callable[
    [np.ndarray, str], np.ndarray
]  # a query and a domain to the scores of what was found, descending


def filtered(
    vectors: dict[str, np.ndarray], work: Path, peers: Path | None, console: Console
) -> dict[str, float]:
    """Queries a second that each way answers at a mean recall of 0.95, by the effort and kind that suit it best.

    ``as_built``: by the effort an index is built with, which reaches it for every pair of domains.
    """
    names = sorted(vectors)
    flat = np.concatenate([vectors[name] for name in names])
    ends = np.cumsum([len(vectors[name]) for name in names]).tolist()
    ranges = {name: (end - len(vectors[name]), end) for name, end in zip(names, ends, strict=True)}
    pairs = questions(vectors)
    speeds: dict[str, dict[str, float]] = {
        way: {} for way in ("shards", "as_built", "selector", "marked", "postfilter")
    }
    for kind in KINDS:
        own = Index.open(made(work / f"by-domain-{kind}", vectors, kind))
        fetches = [K * fetch for fetch in kinds.FETCHES[kind]]
        most = max(own.domain(name).shards[0].most_effort for name in names)
        speeds["shards"][kind] = fastest(partial(by_effort, own), to_try(most), fetches, pairs)
        speeds["as_built"][kind] = rate(partial(scores_of, own), pairs)
        # Its efforts are found below.
        one = Index.open(made(work / f"of-all-{kind}", {"all": flat}, kind, recall=0.01))
        rival = Rival(one, kind, ranges)
        speeds["selector"][kind] = fastest(rival.selected, to_try(rival.most), fetches, pairs)
        speeds["marked"][kind] = fastest(rival.marked, to_try(rival.most), fetches, pairs)
        speeds["postfilter"][kind] = fastest(rival.filtered, to_try(rival.most), DEEPER, pairs)
    table = Table("kind", *speeds, title=f"{len(flat):,} rows, one domain of {len(names)}, queries a second")
    for kind in KINDS:
        table.add_row(kind, *(f"{speeds[way][kind]:,.0f}" for way in speeds))
    best = {way: max(rates.values()) for way, rates in speeds.items()}
    found = {
        f"filter.{way}.{kind}.qps": rate for way, rates in speeds.items() for kind, rate in rates.items()
    }
    for way, start in (("shards", "filter"), ("as_built", "filter_as_built")):
        found[f"{start}_vs_postfilter"] = best[way] / best["postfilter"]
        found[f"{start}_vs_idselector"] = best[way] / best["selector"]
        found[f"{start}_vs_idselector_bitmap"] = best[way] / best["marked"]
    if peers is not None:
        found["filter.qdrant.qps"] = qdrant(peers, flat, ranges, pairs, work)
        table.caption = f"Qdrant's local mode, exact: {found['filter.qdrant.qps']:.1f}"
    console.print(table)
    for way, start in (("shards", "filter"), ("as built", "filter_as_built")):
        console.print(
            f"{way}: {found[f'{start}_vs_postfilter']:.1f} × post-filtering, "
            f"{found[f'{start}_vs_idselector']:.1f} × FAISS's IDSelector of a range, "
            f"{found[f'{start}_vs_idselector_bitmap']:.1f} × of a bitmap"
        )
    return found


def questions(vectors: dict[str, np.ndarray]) -> list[tuple[np.ndarray, str, float]]:
    """Queries near rows of each domain, the domain to search, and the score of the tenth row there."""
    rng, pairs = np.random.default_rng(1), []
    for rows in vectors.values():
        for gallery, there in vectors.items():
            near = rows[rng.choice(len(rows), QUERIES, replace=False)]
            near += rng.normal(size=near.shape, scale=0.1 / near.shape[1] ** 0.5).astype(np.float32)
            queries = near / np.linalg.norm(near, axis=1, keepdims=True)
            tenth = -np.partition(-(queries @ there.T), K - 1, axis=1)[:, K - 1]
            pairs += [(query, gallery, float(score)) for query, score in zip(queries, tenth, strict=True)]
    order = rng.permutation(len(pairs))
    return [pairs[place] for place in order]


def made(out: Path, vectors: dict[str, np.ndarray], kind: ApproximateKind, recall: float = RECALL) -> Path:
    """An index of these rows, kept from an earlier time if it was."""
    if not (out / "index" / "CURRENT").exists():
        embeddings, catalog = (
            write_embeddings(out, vectors)
            if not (out / "embeddings" / "manifest.json").exists()
            else (Embeddings.open(out / "embeddings"), Catalog.open(out / "catalog"))
        )
        build(embeddings, catalog, out / "index", kind, recall=recall)
    return out / "index"


def scores_of(index: Index, query: np.ndarray, name: str, effort: Effort | None = None) -> np.ndarray:
    """Ours, with all that an answer has: ids, sources, order."""
    return np.array([hit.score for hit in index.domain(name).search(query[None], K, effort=effort)[0]])


def by_effort(index: Index, effort: int, fetch: int, query: np.ndarray, name: str) -> np.ndarray:
    return scores_of(index, query, name, Effort(effort, fetch // K))


def to_try(most: int) -> list[int]:
    """Cells, each number a quarter above the one before."""
    return sorted({n for n in (round(1.25**n) for n in range(60)) if n < most} | {most})


class Rival:
    """One index of all rows. Candidates are scored by their vectors, as ours are; it need not say their ids."""

    def __init__(self, index: Index, kind: ApproximateKind, ranges: dict[str, tuple[int, int]]) -> None:
        (entry,) = index.manifest.shards
        assert entry.approximate is not None
        flat = faiss.read_index(str(index.folder / entry.vectors.file), faiss.IO_FLAG_MMAP_IFC)
        self._vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
        self._flat, self._kind = flat, kind
        self._index = kinds.read(index.folder / entry.approximate.file, kind, flat.ntotal, flat.d)
        self._ranges = ranges
        self._range, self._bitmap = {}, {}
        for name, (first, end) in ranges.items():
            self._range[name] = faiss.IDSelectorRange(first, end, True)
            inside = np.zeros(flat.ntotal, bool)
            inside[first:end] = True
            self._bitmap[name] = faiss.IDSelectorBitmap(np.packbits(inside, bitorder="little"))
        self.most = kinds.most_effort(kind, self._index)

    def selected(self, effort: int, fetch: int, query: np.ndarray, name: str) -> np.ndarray:
        """FAISS looks at the domain's rows alone, which lie together: it skips to them within a cell."""
        return self._by(self._range[name], effort, fetch, query)

    def marked(self, effort: int, fetch: int, query: np.ndarray, name: str) -> np.ndarray:
        """The same where rows lie in any order: a mark of each says whether it is of the domain."""
        return self._by(self._bitmap[name], effort, fetch, query)

    def _by(self, only: faiss.IDSelector, effort: int, fetch: int, query: np.ndarray) -> np.ndarray:
        return self._best(
            query, kinds.candidates(self._kind, self._index, query[None], fetch, effort, only)[0]
        )

    def filtered(self, effort: int, fetch: int, query: np.ndarray, name: str) -> np.ndarray:
        """More are fetched, and those of the domain kept."""
        rows = kinds.candidates(self._kind, self._index, query[None], fetch, effort)[0]
        first, end = self._ranges[name]
        return self._best(query, rows[(rows >= first) & (rows < end)])

    def _best(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        rows = rows[rows >= 0]
        if self._kind != "ivf-pq":  # in order already
            rows = rows[:K]
        scores: np.ndarray = self._vectors[rows] @ query
        return -np.sort(-scores)[:K]


def recall(search: Search, pairs: list[tuple[np.ndarray, str, float]]) -> float:
    """Mean share of the exact top 10 that is found."""
    return statistics.mean(
        float((search(query, name) >= tenth - 1e-5).sum()) / K for query, name, tenth in pairs
    )


def rate(search: Search, pairs: list[tuple[np.ndarray, str, float]]) -> float:
    """Queries a second, median of three rounds, at a recall that was seen."""
    assert recall(search, pairs) >= RECALL
    took = []
    for _ in range(3):
        start = time.perf_counter()
        for query, name, _ in pairs:
            search(query, name)
        took.append(time.perf_counter() - start)
    return len(pairs) / statistics.median(took)


def fastest(
    search: Callable[[int, int, np.ndarray, str], np.ndarray],
    cells: list[int],
    fetches: list[int],
    pairs: list[tuple[np.ndarray, str, float]],
) -> float:
    """The rate of the quickest effort that reaches the recall, 0 where none does.

    For every number of candidates the fewest cells are found by bisection, until candidates alone take longer than the
    best so far. Ascending numbers; a search by more of either finds no less.
    """
    best: tuple[float, partial[np.ndarray]] | None = None
    some, few = pairs[:TRIED], pairs[:TIMED]
    for fetch in fetches:
        if best is not None and timed(partial(search, cells[0], fetch), few) > best[0]:
            break
        if recall(partial(search, cells[-1], fetch), few) < RECALL - 0.05:
            continue

        def reached(n: int, fetch: int = fetch) -> float:
            return recall(partial(search, n, fetch), some)

        place = bisect_left(cells, RECALL, key=reached)
        while place < len(cells) and recall(partial(search, cells[place], fetch), pairs) < RECALL:
            place += 1
        if place < len(cells):
            tried = partial(search, cells[place], fetch)
            took = timed(tried, few)
            if best is None or took < best[0]:
                best = (took, tried)
    return 0.0 if best is None else rate(best[1], pairs)


def timed(search: Search, pairs: list[tuple[np.ndarray, str, float]]) -> float:
    """Median seconds of a query."""
    took = []
    for query, name, _ in pairs:
        start = time.perf_counter()
        search(query, name)
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def qdrant(
    peers: Path,
    flat: np.ndarray,
    ranges: dict[str, tuple[int, int]],
    pairs: list[tuple[np.ndarray, str, float]],
    work: Path,
) -> float:
    """Queries a second of Qdrant's local mode with a filter on the domain, which compares with every row."""
    np.save(work / "rows.npy", flat)
    some = pairs[:6]  # each takes seconds
    np.save(work / "queries.npy", np.stack([query for query, _, _ in some]))
    (work / "ranges.json").write_text(json.dumps(ranges))
    (work / "names.json").write_text(json.dumps([name for _, name, _ in some]))
    said = subprocess.run(
        [peers, Path(__file__).with_name("search_peers.py"), "qdrant", work],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(json.loads(said.stdout.splitlines()[-1])["qps"])
