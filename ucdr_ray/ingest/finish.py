"""From finished parts to a catalog: slots without gaps, tables of rejects and duplicates, the manifest last."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.catalog import REJECTS, WORK, Domain, Manifest, Part, fingerprint_of
from ucdr_ray.errors import JobError
from ucdr_ray.files import settle, write_json
from ucdr_ray.ingest.duplicates import duplicates
from ucdr_ray.ingest.part import Receipt, Settings, read_receipt
from ucdr_ray.ingest.plan import Chunk, Plan
from ucdr_ray.records import FileRecord


@dataclass(frozen=True)
class Move:
    """A part whose slots must start elsewhere, because images before it were rejected."""

    chunk: Chunk
    first_slot: int


def moves(out: Path, plan: Plan) -> list[Move]:
    """Which parts are not where the slots of their domain leave no gap."""
    needed = []
    next_slot: dict[str, int] = {}
    for chunk, receipt in _receipts(out, plan):
        slot = next_slot.get(chunk.domain, 0)
        if receipt.part is not None:
            if receipt.part.first_slot != slot:
                needed.append(Move(chunk, slot))
            next_slot[chunk.domain] = slot + receipt.part.rows
    return needed


def write_rejects(out: Path, plan: Plan) -> Path:
    """Write the table of everything rejected so far, chunk by chunk."""
    path = out / "rejects.parquet"
    draft = out / WORK / path.name
    with pq.ParquetWriter(draft, REJECTS) as writer:
        for chunk, receipt in _receipts(out, plan):
            rows = [{"path": r.path, "domain": chunk.domain, "reason": r.reason} for r in receipt.rejects]
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, REJECTS))
    settle(draft, path)
    return path


def finish(out: Path, plan: Plan, settings: Settings, inputs: str, sources: list[str]) -> Manifest:
    """Write what a finished catalog has besides its parts, remove what it has not, and last of all the manifest.

    The driver's memory grows by about 65 bytes an image (ids, sorted to find duplicates), by the rows of the
    duplicates' table, and by the number of different labels.

    Raises:
        JobError: nothing of a domain could be read.
    """
    rejects = pq.ParquetFile(write_rejects(out, plan)).metadata.num_rows
    parts: dict[str, list[Part]] = {}
    labels: dict[str, dict[str, int]] = {}
    for chunk, receipt in _receipts(out, plan):
        mine = labels.setdefault(chunk.domain, {})
        for label, count in receipt.labels.items():
            mine[label] = mine.get(label, 0) + count
        parts.setdefault(chunk.domain, []).extend([receipt.part] if receipt.part else [])
    for domain, found in parts.items():
        if not found:
            raise JobError(f"no image of domain {domain!r} can be read; see {out / 'rejects.parquet'}")
    twice = duplicates(out, [(domain, part) for domain, found in parts.items() for part in found])
    draft = out / WORK / "duplicates.parquet"
    pq.write_table(twice, draft)
    settle(draft, out / draft.name)
    domains = [
        Domain(
            name=name,
            images=sum(part.rows for part in found),
            labelled=sum(labels[name].values()),
            classes=len(labels[name]),
            parts=found,
        )
        for name, found in parts.items()
    ]
    manifest = Manifest(
        fingerprint=fingerprint_of(domains),
        inputs=inputs,
        max_side=settings.max_side,
        domains=domains,
        classes=sorted(set().union(*labels.values())),
        duplicates=len(twice),
        rejects=rejects,
        sources=sources,
        tables=[FileRecord.of(out, f"{name}.parquet") for name in ("rejects", "duplicates")],
    )
    _remove_strays(out, {part.file for found in parts.values() for part in found})
    write_json(out / "manifest.json", manifest.model_dump())
    shutil.rmtree(out / WORK)
    return manifest


def _receipts(out: Path, plan: Plan) -> Iterator[tuple[Chunk, Receipt]]:
    for chunk in plan.chunks:
        if (receipt := read_receipt(out, chunk)) is not None:
            yield chunk, receipt


def _remove_strays(out: Path, kept: set[str]) -> None:
    """Parts of an earlier, different plan, and drafts of a killed worker."""
    for path in list((out / "images").rglob("*")):
        if path.is_file() and path.relative_to(out).as_posix() not in kept:
            path.unlink()
