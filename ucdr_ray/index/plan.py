"""Which kind of shortcut an index should have: what each takes of memory, and what it is likely to find.

Decided before anything is written, and told.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.index import kinds
from ucdr_ray.index.kinds import APPROXIMATE, FETCHES, ApproximateKind, K, Kind
from ucdr_ray.index.learn import drawn
from ucdr_ray.index.manifest import ShardEntry
from ucdr_ray.index.metadata import row_memory
from ucdr_ray.index.source import Embedded, Source

EXACT_UP_TO = 20_000  # rows of a shard: comparing with all of them takes 2 ms at 256 dimensions
PILOT_ROWS = 20_000
_PILOT_QUERIES = 200  # of each domain
_READ = 500  # rows of each domain, for the length of ids and sources
WORK = 3_000_000  # bytes that searching leaves with the allocators, however many rows there are
# By speed at equal recall, and by memory: the smaller the codes, the more of them a processor reads in a second.
# A graph takes ten times as long to build, and signs are for hash codes: both are had by name only.
_PREFERRED: tuple[ApproximateKind, ...] = ("ivf-pq", "ivf-sq8", "ivf-flat")


@dataclass(frozen=True)
class Estimate:
    """What an index of a kind needs, in bytes, and the recall at 10 that it can be expected to reach, if it was tried.

    ``memory``: of a process that holds all of it. ``disk``: of the version without thumbnails. Vectors beside a
    shortcut lie on disk, and only those of candidates are read.
    """

    kind: Kind
    memory: int
    disk: int
    recall: float | None


@dataclass(frozen=True)
class Plan:
    """What will be built, and what it was chosen from, if it was."""

    chosen: Estimate
    compared: list[Estimate]


def plan(
    embeddings: Embeddings,
    source: Embedded,
    kind: Kind | None,
    memory: int | None,
    recall: float,
    rows_per_shard: int,
) -> Plan:
    """Choose, and say what it will take.

    Args:
        kind: the one asked for; chosen without it.
        memory: bytes that a process which holds the index may take.

    Raises:
        UserError: nothing fits; says what each kind would take.
    """
    rows = [
        min(rows_per_shard, domain.rows - first)
        for domain in embeddings.domains
        for first in range(0, domain.rows, rows_per_shard)
    ]
    around = shown_memory(source)
    exact = estimate("exact", rows, embeddings.dim, around, 1.0)
    fits = memory is None or exact.memory <= memory
    if kind is not None or (max(rows) <= EXACT_UP_TO and fits):
        found = exact if kind in (None, "exact") else estimate(kind, rows, embeddings.dim, around)
        if memory is not None and found.memory > memory:
            raise UserError(
                f"--memory {memory / 1e6:,.0f} MB: an index of kind {found.kind} takes {found.memory / 1e6:,.0f} MB"
            )
        return Plan(found, [])
    slots = {domain.name: np.arange(domain.rows) for domain in embeddings.domains}
    every = estimates(rows, embeddings.dim, around, expected_recalls(source, slots, embeddings.dim))
    return Plan(choose(every, memory, recall, max(rows)), every)


def shown_memory(source: Embedded) -> int:
    """Bytes of memory for what an answer shows of all rows: judged by the first rows of each domain."""
    total = 0.0
    for domain in source.embeddings.domains:
        table = source.catalog.take(domain.name, range(min(_READ, domain.rows)), ["id", "source"])
        ids, sources = (table[name].to_pylist() for name in ("id", "source"))
        length = sum(len(source.encode()) for source in sources) / len(sources)
        total += domain.rows * row_memory(max(len(id_.encode()) for id_ in ids), 0) + domain.rows * length
    return round(total)


def held(shards: list[ShardEntry]) -> int:
    """Bytes of memory of a process that holds these shards."""
    return WORK + sum(entry.memory for entry in shards)


def estimate(
    kind: Kind, shard_rows: list[int], dim: int, around: int, recall: float | None = None
) -> Estimate:
    """Of one kind, for shards of so many rows each, of which ids and sources take ``around`` bytes of memory."""
    vectors, codes = 4 * dim * sum(shard_rows), 0
    memory = WORK + around
    for rows in shard_rows:
        if kind == "exact" or rows < kinds.SMALLEST:
            memory += 4 * dim * rows
        else:
            shortcut = _shortcut_bytes(kind, rows, dim)
            codes += shortcut
            memory += kinds.in_memory(kind, shortcut)
    return Estimate(kind, memory, vectors + codes + around, recall)


def _shortcut_bytes(kind: ApproximateKind, rows: int, dim: int) -> int:
    if kind == "hnsw":
        return (272 + 2 * dim) * rows  # 64 links on the ground floor, one row in 32 on the next, and offsets
    if kind == "binary":
        return (dim + 7) // 8 * rows
    cells = kinds.cells(rows)
    number = {"ivf-flat": 4 * dim, "ivf-sq8": dim, "ivf-pq": dim / 4 if dim % 2 == 0 else dim / 2}[kind]
    # A cell's codes come in blocks of 32; a code book has 16 entries.
    around = 16 * cells * number + 64 * dim if kind == "ivf-pq" else 0
    return round((number + 8) * rows + 4 * dim * cells + around)


def expected_recalls(source: Source, rows: Mapping[str, np.ndarray], dim: int) -> dict[Kind, float]:
    """Of each kind, the worst recall at 10 between two domains, all cells searched; 1 where codes lose nothing.

    Measured on a sample of every domain that will have shortcuts. What a query finds among all rows, it must find among
    a part of them with a part of the candidates; so the sample is asked for as large a share of itself.
    """
    sample = drawn(source, rows, PILOT_ROWS)
    queries = np.concatenate([drawn(source, {name: slots}, _PILOT_QUERIES) for name, slots in rows.items()])
    asking = np.cumsum([min(_PILOT_QUERIES, len(slots)) for slots in rows.values()])[:-1]
    lossy: tuple[ApproximateKind, ...] = ("ivf-pq", "ivf-sq8", "binary")
    most = max(map(len, rows.values()))
    count = kinds.cells(min(most, PILOT_ROWS))
    indexes = {
        kind: kinds.untaught(kind, dim) if kind in kinds.UNTAUGHT else kinds.learnt(kind, dim, count, sample)
        for kind in lossy
    }
    found: dict[Kind, float] = dict.fromkeys(("exact", "ivf-flat", "hnsw", *lossy), 1.0)
    for name, slots in rows.items():
        if len(slots) < min(kinds.SMALLEST, most):
            continue
        gallery = drawn(source, {name: slots}, PILOT_ROWS)
        for kind, index in indexes.items():
            index.reset()
            kinds.add(index, gallery)
            right = _pilot(index, kind, gallery, queries, len(gallery) / len(slots))
            found[kind] = min(found[kind], *(float(part.mean()) for part in np.split(right, asking)))
    return found


def _pilot(
    index: kinds.AnyIndex, kind: ApproximateKind, gallery: np.ndarray, queries: np.ndarray, share: float
) -> np.ndarray:
    """Of each query, the share that it finds."""
    wanted = max(1, round(K * share))
    fetch = max(wanted, round(K * FETCHES[kind][-1] * share))
    rows = kinds.candidates(kind, index, queries, fetch, kinds.most_effort(kind, index))
    truth = -np.sort(-(queries @ gallery.T), axis=1)[:, wanted - 1 : wanted]
    scores = np.einsum("qd,qfd->qf", queries, gallery[rows])
    return np.asarray(np.minimum((scores >= truth - 1e-6).sum(axis=1) / wanted, 1))


def choose(estimates: list[Estimate], memory: int | None, recall: float, largest_shard: int) -> Estimate:
    """The kind that answers fastest of those that fit and reach the recall.

    Args:
        memory: bytes that a process may take; any without it.

    Raises:
        UserError: none does both; says what each would take.
    """
    order: tuple[Kind, ...] = (
        ("exact", *_PREFERRED) if largest_shard <= EXACT_UP_TO else (*_PREFERRED, "exact")
    )
    by_kind = {found.kind: found for found in estimates}
    for kind in order:
        found = by_kind[kind]
        if found.recall is not None and found.recall >= recall and (memory is None or found.memory <= memory):
            return found
    told = "; ".join(f"{e.kind} {e.memory / 1e6:,.0f} MB, recall {e.recall:.2f}" for e in estimates)
    raise UserError(f"--memory {(memory or 0) / 1e6:,.0f} MB with --recall {recall:g}: nothing fits ({told})")


def estimates(shard_rows: list[int], dim: int, around: int, recalls: Mapping[Kind, float]) -> list[Estimate]:
    """Of every kind."""
    every: tuple[Kind, ...] = ("exact", *APPROXIMATE)
    return [estimate(kind, shard_rows, dim, around, recalls[kind]) for kind in every]
