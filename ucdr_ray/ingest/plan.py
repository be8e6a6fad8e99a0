"""The plan of an ingest: the listing of all sources, cut into chunks on disk, so that nobody has to hold it."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint
from ucdr_ray.labels import Labeller
from ucdr_ray.sources.item import ITEM_SCHEMA, Item, check_domain

CHUNK_ROWS = 512
CHUNK_BYTES = 32 << 20
_SHOWN = 8


@dataclass(frozen=True)
class Chunk:
    """Consecutive items of one domain: they become one part. ``first`` counts the domain's items before them."""

    domain: str
    index: int
    first: int
    items: int
    digest: str

    @property
    def name(self) -> str:
        return f"{self.domain}/part-{self.index:05d}"


@dataclass
class Plan:
    """What is to be ingested: chunks in order, and how many items each domain has of each class of the source."""

    chunks: list[Chunk]
    counts: dict[str, Counter[str | None]]
    unlabelled: int

    @property
    def items(self) -> int:
        return sum(chunk.items for chunk in self.chunks)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the whole listing, with sizes and times of the inputs."""
        return fingerprint([chunk.digest for chunk in self.chunks])


@dataclass
class Selection:
    """What is taken of the sources: all domains where ``domains`` is None, all classes where ``classes`` is."""

    label_of: Labeller
    domains: list[str] | None = None
    classes: list[str] | None = None
    _seen_domains: set[str] = field(default_factory=set)
    _seen_classes: set[str] = field(default_factory=set)

    def pick(self, items: Iterable[Item]) -> Iterable[tuple[Item, str | None]]:
        """The selected items, with their labels in place, and the classes they are of in their source."""
        domains = None if self.domains is None else set(self.domains)
        classes = None if self.classes is None else set(self.classes)
        for item in items:
            if item.domain not in self._seen_domains:
                self._seen_domains.add(check_domain(item.domain, item.source))
            if domains is not None and item.domain not in domains:
                continue
            label = self.label_of(item)
            kind = item.label or label
            if classes is not None:
                if kind is not None:
                    self._seen_classes.add(kind)
                if kind not in classes:
                    continue
            yield item._replace(label=label), kind

    def check(self) -> None:
        """Hold what was asked for against what was seen.

        Raises:
            UserError: a domain or class that no source has.
        """
        for asked, seen, what in (
            (self.domains, self._seen_domains, "domain"),
            (self.classes, self._seen_classes, "class"),
        ):
            for name in asked or []:
                if name not in seen:
                    raise UserError(f"no {what} {name!r} in the sources{_nearest(name, seen)}")


def write_plan(items: Iterable[Item], selection: Selection, folder: Path) -> Plan:
    """Write the selected items as ``folder/<domain>/part-NNNNN.parquet``.

    Holds at most one chunk of each domain, and of the rest a few numbers per chunk and class.

    Raises:
        UserError: nothing was selected, or something asked for is not there, or a domain has a bad name.
    """
    waiting: dict[str, list[Item]] = {}
    sizes: Counter[str] = Counter()
    chunks: dict[str, list[Chunk]] = {}
    counts: dict[str, Counter[str | None]] = {}
    unlabelled = 0

    def flush(domain: str) -> None:
        batch, done = waiting.pop(domain), chunks.setdefault(domain, [])
        first = done[-1].first + done[-1].items if done else 0
        path = folder / domain / f"part-{len(done):05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [
            pa.array(values, kind.type)
            for values, kind in zip(zip(*batch, strict=True), ITEM_SCHEMA, strict=True)
        ]
        pq.write_table(pa.table(columns, schema=ITEM_SCHEMA), path, compression="zstd")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        done.append(Chunk(domain, len(done), first, len(batch), digest))
        sizes[domain] = 0

    for item, kind in selection.pick(items):
        counts.setdefault(item.domain, Counter())[kind] += 1
        unlabelled += item.label is None
        if item.domain in waiting and sizes[item.domain] + item.size > CHUNK_BYTES:
            flush(item.domain)
        waiting.setdefault(item.domain, []).append(item)
        sizes[item.domain] += item.size
        if len(waiting[item.domain]) == CHUNK_ROWS:
            flush(item.domain)
    for domain in list(waiting):
        flush(domain)
    selection.check()
    if not chunks:
        raise UserError(
            "the sources hold no images" + (" of the classes asked for" if selection.classes else "")
        )
    ordered = [chunk for domain in sorted(chunks) for chunk in chunks[domain]]
    return Plan(ordered, {domain: counts[domain] for domain in sorted(counts)}, unlabelled)


def read_chunk(folder: Path, chunk: Chunk) -> list[Item]:
    """The items of one chunk of a plan in ``folder``."""
    table = pq.read_table(folder / f"{chunk.name}.parquet")
    columns = [table.column(name).to_pylist() for name in ITEM_SCHEMA.names]
    return [
        Item(*values)._replace(at=tuple(values[ITEM_SCHEMA.get_field_index("at")]))
        for values in zip(*columns, strict=True)
    ]


def _nearest(name: str, seen: set[str]) -> str:
    close = difflib.get_close_matches(name, seen, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {', '.join(close)}?"
    some = sorted(seen)
    more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
    return f"; they have: {', '.join(some[:_SHOWN])}{more}" if some else "; they have none"
