"""One chunk of the plan to one part of the catalog, with a receipt by which an interrupted ingest goes on."""

from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PositiveInt

from ucdr_ray.catalog import SCHEMA, WORK, Part
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import atomic_write, write_json
from ucdr_ray.images import OUT_OF_MEMORY, UNREADABLE, Reject, content_id, prepare
from ucdr_ray.ingest.plan import Chunk, read_chunk
from ucdr_ray.records import Record, Sha256, read_record
from ucdr_ray.sources.read import read_items

_ROW_GROUP = 128
_MAX_BYTES_PER_PIXEL = 8  # 16-bit RGBA, uncompressed: the most that a pixel takes


class Settings(Record):
    """What changes the bytes of a part, besides its items."""

    max_side: PositiveInt | None
    max_pixels: PositiveInt
    version: int = 1


class Rejected(Record):
    """An input that is not in the catalog, and why."""

    path: str
    reason: str


class Receipt(Record):
    """What came of a chunk. ``part`` is None where every item was rejected."""

    digest: Sha256
    settings: Settings
    part: Part | None
    labels: dict[str, int]
    rejects: list[Rejected]


def plan_folder(out: Path) -> Path:
    return out / WORK / "plan"


def read_receipt(out: Path, chunk: Chunk) -> Receipt | None:
    """The receipt of a chunk, if there is one for just these items."""
    try:
        found = read_record(Receipt, _receipt_path(out, chunk), "receipt")
    except UserError:
        return None
    return found if found.digest == chunk.digest else None


def finished(out: Path, chunk: Chunk, settings: Settings) -> Receipt | None:
    """The receipt of a chunk, if it was made with these settings and its file is unharmed.

    Nor may it hold an image that could not be read at that time: permissions and memory are other things than images.
    """
    found = read_receipt(out, chunk)
    if found is None or found.settings != settings:
        return None
    if any(reject.reason.startswith((UNREADABLE, OUT_OF_MEMORY)) for reject in found.rejects):
        return None
    try:
        if found.part is not None:
            found.part.check(out, "catalog")
    except UserError:
        return None
    return found


def make_part(out: Path, chunk: Chunk, settings: Settings) -> Receipt:
    """Read, check and write one chunk, or take it over from an earlier run."""
    if (done := finished(out, chunk, settings)) is not None:
        return done
    rows: list[dict[str, Any]] = []
    rejects: list[Rejected] = []
    items = read_chunk(plan_folder(out), chunk)
    for item, data in read_items(items, max_bytes=_MAX_BYTES_PER_PIXEL * settings.max_pixels):
        try:
            if isinstance(data, Reject):
                raise data
            stored = prepare(data, settings.max_side, settings.max_pixels)
        except Reject as reject:
            rejects.append(Rejected(path=item.path, reason=reject.reason))
            continue
        rows.append(
            {
                "id": content_id(data),
                "slot": chunk.first + len(rows),
                "domain": chunk.domain,
                "image": stored.data,
                "width": stored.width,
                "height": stored.height,
                "source": item.source,
                "label": item.label,
            }
        )
    file = f"images/{chunk.name}.parquet"
    if rows:
        write_images(out / file, pa.Table.from_pylist(rows, SCHEMA))
        part = Part.of(out, file, rows=len(rows), first_slot=chunk.first)
    else:
        part = None
    labels = dict(Counter(row["label"] for row in rows if row["label"] is not None))
    return _file(
        out, chunk, Receipt(digest=chunk.digest, settings=settings, part=part, labels=labels, rejects=rejects)
    )


def move_part(out: Path, chunk: Chunk, settings: Settings, first_slot: int) -> Receipt:
    """Rewrite a finished part so that its slots start at ``first_slot``; there are rejects before it."""
    done = finished(out, chunk, settings)
    if done is None or done.part is None:
        raise JobError(
            f"{out}: part {chunk.name} changed while the catalog was being written; run the same command again"
        )
    table = pq.read_table(out / done.part.file)
    slots = pa.array(range(first_slot, first_slot + len(table)), pa.int64())
    write_images(
        out / done.part.file, table.set_column(SCHEMA.get_field_index("slot"), SCHEMA.field("slot"), slots)
    )
    part = Part.of(out, done.part.file, rows=len(table), first_slot=first_slot)
    return _file(out, chunk, done.model_copy(update={"part": part}))


def write_images(path: Path, table: pa.Table) -> None:
    """Write rows of `SCHEMA` as a catalog's part has them."""
    buffer = BytesIO()
    # Images are compressed already; a dictionary of them would only cost memory.
    codecs = {name: "none" if name == "image" else "zstd" for name in SCHEMA.names}
    pq.write_table(
        table, buffer, row_group_size=_ROW_GROUP, compression=codecs, use_dictionary=["domain", "label"]
    )
    atomic_write(path, buffer.getvalue())


def _receipt_path(out: Path, chunk: Chunk) -> Path:
    return out / WORK / "receipts" / f"{chunk.name}.json"


def _file(out: Path, chunk: Chunk, receipt: Receipt) -> Receipt:
    write_json(_receipt_path(out, chunk), receipt.model_dump())
    return receipt
