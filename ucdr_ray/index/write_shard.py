"""Writing one shard, the unit of work that is done in parallel."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import faiss
import numpy as np
import pyarrow as pa

from ucdr_ray.index import kinds
from ucdr_ray.index.kinds import ApproximateKind
from ucdr_ray.index.manifest import Approximate, ShardEntry, Shown
from ucdr_ray.index.metadata import SCHEMA, Metadata, write_metadata
from ucdr_ray.index.source import Rows, Source
from ucdr_ray.records import FileRecord

Advance = Callable[[int], None]


@dataclass(frozen=True)
class ShardTask:
    """Which rows of a source become which shard of a version that is being written.

    ``slots``: theirs in the source, ascending; in the index they are counted from ``first_slot``. ``kind``: of its
    shortcut, if any. ``learnt``: where its cells and codes are read from; a graph has none.
    """

    source: Source
    folder: Path
    domain: str
    name: str
    first_slot: int
    slots: np.ndarray
    dim: int
    kind: ApproximateKind | None = None
    learnt: Path | None = None


class Writer(Protocol):
    """Writes shards, whatever number of them at a time, and counts finished rows; entries in the order of tasks."""

    def __call__(self, tasks: list[ShardTask], advance: Advance) -> list[ShardEntry]: ...


def shard_name(domain: str, number: int) -> str:
    """The folder of a shard."""
    return f"shards/{quote(domain, safe=' ')}-{number:05d}"


def write_all(tasks: list[ShardTask], advance: Advance) -> list[ShardEntry]:
    """A `Writer`: one after another, in this process."""
    return [write_shard(task, advance) for task in tasks]


def write_shard(task: ShardTask, advance: Advance = lambda rows: None) -> ShardEntry:
    """Vectors, shortcut and metadata in one pass over the rows. Holds 4 · dim bytes of each row, and the shortcut.

    The effort of the shortcut is the least, for `ucdr_ray.index.recall` to set right.
    """
    folder = task.folder / task.name
    folder.mkdir(parents=True)
    flat = faiss.IndexFlatIP(task.dim)
    shortcut = None
    if task.kind is not None:
        shortcut = kinds.untaught(task.kind, task.dim) if task.learnt is None else kinds.emptied(task.learnt)
    described = folder / "metadata.parquet"
    write_metadata(described, _metadata(task, _filling(task, flat, shortcut, advance)))
    taken = Metadata(described, task.domain, task.first_slot, len(task.slots)).memory
    faiss.write_index(flat, str(folder / "vectors.faiss"))
    entry = ShardEntry(
        domain=task.domain,
        first_slot=task.first_slot,
        rows=len(task.slots),
        vectors=FileRecord.of(task.folder, f"{task.name}/vectors.faiss"),
        metadata=Shown.of(task.folder, f"{task.name}/metadata.parquet", memory=taken),
    )
    if shortcut is None or task.kind is None:
        return entry
    kinds.write(shortcut, folder / "search.faiss")
    record = Approximate.of(
        task.folder, f"{task.name}/search.faiss", kind=task.kind, effort=1, fetch=kinds.FETCHES[task.kind][0]
    )
    return entry.model_copy(update={"approximate": record})


def _filling(
    task: ShardTask, flat: faiss.Index, shortcut: kinds.AnyIndex | None, advance: Advance
) -> Iterator[Rows]:
    """The source's rows, once the indexes have them."""
    for rows in task.source.batches(task.domain, task.slots):
        flat.add(rows.vectors)
        if shortcut is not None:
            kinds.add(shortcut, rows.vectors)
        yield rows
        advance(len(rows.ids))


def _metadata(task: ShardTask, batches: Iterable[Rows]) -> Iterator[pa.RecordBatch]:
    first = task.first_slot
    for rows in batches:
        count = len(rows.ids)
        slots = np.arange(first, first + count)
        values = [rows.ids, [task.domain] * count, slots, rows.sources, rows.thumbnails]
        yield pa.RecordBatch.from_arrays(
            [pa.array(value, field.type) for value, field in zip(values, SCHEMA, strict=True)], schema=SCHEMA
        )
        first += count
