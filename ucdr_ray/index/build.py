"""Build an index version from embeddings, check it, and only then put it in use."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import staged_folder, write_json
from ucdr_ray.images import Reject, prepare
from ucdr_ray.index.manifest import Manifest, MetadataEntry, Origin, ShardEntry, totals
from ucdr_ray.index.metadata import SCHEMA, write_metadata
from ucdr_ray.index.search import Index, OpenDomain, check_encoder
from ucdr_ray.index.shard import write_exact
from ucdr_ray.index.versions import (
    clear_unfinished,
    number_of,
    set_current,
    version_folder,
    version_name,
    versions,
)
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.records import files_under

ROWS_PER_SHARD = 1_000_000  # a shard is built and loaded in memory: 1 GB at 256 dimensions
THUMBNAIL_SIDE = 128
CHECKED_ROWS = 64  # per domain, found by their own vectors before a version is published


def build(
    embeddings: Embeddings,
    catalog: Catalog,
    out: Path,
    rows_per_shard: int = ROWS_PER_SHARD,
    advance: Callable[[int], None] = lambda rows: None,
) -> Index:
    """Write a new version of the index at ``out`` and make it current. The old one stays, and stays current on failure.

    Args:
        catalog: the catalog that was embedded; gives sources and thumbnails.
        advance: called with the number of rows finished since the last call; each row counts once.

    Raises:
        UserError: embeddings, catalog and encoder do not belong together, or another build is under way.
        JobError: an image can't be decoded (named), or the finished version does not find its own rows.
    """
    if catalog.fingerprint != embeddings.catalog.fingerprint:
        raise UserError(
            f"the catalog at {catalog.path} is not the one that was embedded in {embeddings.path}"
        )
    encoder = embeddings.path / "encoder"
    check_encoder(Encoder.load(encoder), embeddings.model, embeddings.dim, encoder)
    folder = out / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        clear_unfinished(out)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
            manifest = _write(Path(scratch), embeddings, catalog, rows_per_shard, advance)
            number = number_of(versions(out)[-1]) + 1 if versions(out) else 1
            name = version_name(number, Path(scratch) / "manifest.json")
            with staged_folder(version_folder(out, name)) as staging:
                for child in Path(scratch).iterdir():
                    os.rename(child, staging / child.name)
                manifest.check_files(staging)
                _self_check(staging, manifest, embeddings)
        set_current(out, name)
        return Index(version_folder(out, name), name, manifest)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"--out {out}: another process is building an index there") from None


def _write(
    folder: Path,
    embeddings: Embeddings,
    catalog: Catalog,
    rows_per_shard: int,
    advance: Callable[[int], None],
) -> Manifest:
    for name in ("shards", "metadata", "encoder"):
        (folder / name).mkdir()
    for record in embeddings.manifest.encoder:
        shutil.copyfile(embeddings.path / record.file, folder / record.file)
    shards: list[ShardEntry] = []
    metadata: list[MetadataEntry] = []
    for domain in embeddings.domains:
        stem = quote(domain.name, safe=" ")
        batches = _vectors(embeddings, domain.name, rows_per_shard)
        for part, first_slot in enumerate(range(0, domain.rows, rows_per_shard)):
            file = f"shards/{stem}-{part:05d}.faiss"
            rows = min(rows_per_shard, domain.rows - first_slot)
            write_exact(folder / file, embeddings.dim, _take(batches, rows))
            record = ShardEntry.of(
                folder, file, domain=domain.name, kind="exact", rows=rows, first_slot=first_slot
            )
            shards.append(record)
        file = f"metadata/{stem}.parquet"
        write_metadata(folder / file, _metadata(embeddings, catalog, domain.name, advance))
        metadata.append(MetadataEntry.of(folder, file, domain=domain.name, rows=domain.rows))
    encoder = files_under(folder, "encoder")
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=embeddings.model,
        dim=embeddings.dim,
        origin=Origin(catalog=catalog.fingerprint, embeddings=embeddings.manifest.checksum),
        shards=shards,
        metadata=metadata,
        encoder=encoder,
        totals=totals([*shards, *metadata, *encoder], metadata),
    )
    write_json(folder / "manifest.json", manifest.model_dump())
    return manifest


def _vectors(embeddings: Embeddings, domain: str, limit: int) -> Iterator[np.ndarray]:
    """The domain's vectors, cut so that no array spans a multiple of ``limit`` rows."""
    for batch in embeddings.batches(domain):
        start = 0
        while start < len(batch.vectors):
            room = limit - (batch.first_slot + start) % limit
            yield batch.vectors[start : start + room]
            start += room


def _take(batches: Iterator[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    while rows:
        batch = next(batches)
        rows -= len(batch)
        yield batch


def _metadata(
    embeddings: Embeddings, catalog: Catalog, domain: str, advance: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    ids = embeddings.ids(domain)
    columns = ["id", "slot", "source", "image", "width", "height"]
    with ThreadPoolExecutor() as threads:
        for batch in catalog.batches(domain, columns):
            slots = batch["slot"].to_numpy()
            if not pa.chunked_array([batch["id"]]).equals(ids.slice(int(slots[0]), len(slots))):
                raise UserError(
                    f"{embeddings.path} and {catalog.path} disagree on the ids of domain {domain}"
                )
            names = ("image", "width", "height", "source")
            rows = zip(*(batch[name].to_pylist() for name in names), strict=True)
            thumbnails = list(threads.map(_thumbnail, rows))
            values = [batch["id"], [domain] * len(slots), batch["slot"], batch["source"], thumbnails]
            yield pa.RecordBatch.from_arrays(
                [pa.array(value, field.type) for value, field in zip(values, SCHEMA, strict=True)],
                schema=SCHEMA,
            )
            advance(len(slots))


def _thumbnail(row: tuple[bytes, int, int, str]) -> bytes:
    image, width, height, source = row
    if max(width, height) <= THUMBNAIL_SIDE:
        return image
    try:
        return prepare(image, THUMBNAIL_SIDE, max_pixels=None).data
    except Reject as reject:
        raise JobError(f"cannot make a thumbnail of the image from {source}: {reject.reason}") from None


def _self_check(folder: Path, manifest: Manifest, embeddings: Embeddings) -> None:
    """Hold a seeded sample of each domain against the written index: each row must find itself, or an equal vector."""
    generator = np.random.default_rng(0)
    for domain in manifest.domains:
        rows = manifest.rows_of(domain)
        slots = generator.choice(rows, size=min(CHECKED_ROWS, rows), replace=False)
        queries = _rows_at(embeddings, domain, slots)
        found = [hits[0].slot for hits in OpenDomain(folder, manifest, domain).search(queries, k=1)]
        wrong = np.abs(_rows_at(embeddings, domain, np.array(found)) - queries).max(axis=1) > 1e-3
        if wrong.any():
            slot = slots[wrong.argmax()]
            raise JobError(
                f"the new version does not find slot {slot} of {domain} by its own vector: not published"
            )


def _rows_at(embeddings: Embeddings, domain: str, slots: np.ndarray) -> np.ndarray:
    """Vectors float32 (n, dim) of some slots, read part by part."""
    rows = np.empty((len(slots), embeddings.dim), np.float32)
    for batch in embeddings.batches(domain):
        here = (slots >= batch.first_slot) & (slots < batch.first_slot + len(batch.vectors))
        rows[here] = batch.vectors[slots[here] - batch.first_slot]
    return rows
