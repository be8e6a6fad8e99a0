"""The catalog: images by domain and slot in Parquet, with a manifest of counts and checksums.

```
CATALOG/
  manifest.json                          what is here; written last, so that a catalog is whole or has none
  images/<domain>/part-NNNNN.parquet     columns of SCHEMA, in slot order
  rejects.parquet                        path, domain, reason
  duplicates.parquet                     id, domain, source, first_domain, first_source
```
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint
from ucdr_ray.records import FileRecord, Record, Sha256, read_record

WORK = ".ingest"  # the folder of an ingest that has not finished

SCHEMA = pa.schema(
    [
        pa.field(
            "id", pa.string(), nullable=False
        ),  # first 32 hex of the SHA-256 of the original encoded bytes
        pa.field("slot", pa.int64(), nullable=False),  # 0..N-1 in its domain
        pa.field("domain", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # encoded: as it came, or shrunk
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # where it came from, relative to the source
        pa.field("label", pa.string()),  # read by evaluation alone
    ]
)
REJECTS = pa.schema([(name, pa.string()) for name in ("path", "domain", "reason")])
DUPLICATES = pa.schema(
    [(name, pa.string()) for name in ("id", "domain", "source", "first_domain", "first_source")]
)


class Part(FileRecord):
    """Rows ``first_slot .. first_slot + rows - 1`` of a domain."""

    file: Annotated[str, Field(pattern=r"^images/[^/]*[^/.][^/]*/part-\d{5,}\.parquet$")]
    rows: PositiveInt
    first_slot: NonNegativeInt


class Domain(Record):
    """One domain: how many images, how many of them with a label, of how many classes, and in which files."""

    name: str
    images: PositiveInt
    labelled: NonNegativeInt
    classes: NonNegativeInt
    parts: list[Part]

    @model_validator(mode="after")
    def _contiguous(self) -> Self:
        slot = 0
        for part in self.parts:
            if part.first_slot != slot:
                raise ValueError(f"{part.file} starts at slot {part.first_slot}, not {slot}")
            slot += part.rows
        if slot != self.images:
            raise ValueError(f"domain {self.name} has {slot} rows in its parts, not {self.images}")
        return self


class Manifest(Record):
    """The content of ``manifest.json``.

    ``inputs`` is a checksum of the sources' listing and of the settings. ``tables`` are those of rejects and of
    duplicates; a catalog of before they were recorded has none.
    """

    format: Literal["ucdr-catalog"] = "ucdr-catalog"
    version: Literal[1] = 1
    fingerprint: Sha256
    inputs: Sha256
    max_side: int | None
    domains: list[Domain]
    classes: list[str]
    duplicates: NonNegativeInt
    rejects: NonNegativeInt
    sources: list[str]
    tables: list[FileRecord] = Field(default_factory=list)


def fingerprint_of(domains: Sequence[Domain]) -> str:
    """SHA-256 over the names, slots and checksums of all parts: equal for equal content, wherever it lies."""
    return fingerprint([[d.name, [[p.first_slot, p.rows, p.sha256] for p in d.parts]] for d in domains])


class Catalog:
    """An opened catalog. Its domains are sorted by name; a domain's index is its place in ``domains``."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Self:
        """Open a finished catalog; ``verify`` holds every part against its checksum.

        Raises:
            UserError: no catalog, an unfinished or damaged one, or an unknown format.
        """
        path = Path(path)
        if not (path / "manifest.json").exists() and (path / WORK).is_dir():
            raise UserError(f"{path}: its ingest did not finish; run the same `ucdr ingest` command again")
        manifest = read_record(Manifest, path / "manifest.json", "catalog manifest")
        if manifest.fingerprint != fingerprint_of(manifest.domains):
            raise UserError(f"damaged catalog: {path / 'manifest.json'} does not match its own fingerprint")
        catalog = cls(path, manifest)
        if verify:
            catalog.verify()
        return catalog

    def verify(self) -> None:
        """Read every part whole, and the tables of rejects and duplicates.

        Raises:
            UserError: one is missing or differs from its checksum; names the file.
        """
        files: list[FileRecord] = [part for domain in self.domains for part in domain.parts]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda file: file.check(self.path, "catalog"), files + self.manifest.tables))

    def verify_counts(self) -> None:
        """Count labels, classes and rejects anew, which no checksum covers; reads one column of all parts.

        Raises:
            UserError: the manifest says something else.
        """
        counted, classes, rejects = [], set(), self.manifest.rejects
        for domain in self.domains:
            labels = self.read(domain.name, ["label"])["label"].drop_null().to_pylist()
            counted.append((len(labels), len(set(labels))))
            classes |= set(labels)
        if self.manifest.tables:
            rejects = pq.ParquetFile(self.path / "rejects.parquet").metadata.num_rows
        told = [(domain.labelled, domain.classes) for domain in self.domains]
        if (counted, sorted(classes), rejects) != (told, sorted(self.classes), self.manifest.rejects):
            raise UserError(f"damaged catalog: {self.path / 'manifest.json'} has other counts than its parts")

    @property
    def domains(self) -> list[Domain]:
        return self.manifest.domains

    @property
    def classes(self) -> list[str]:
        return self.manifest.classes

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def domain(self, name: str) -> Domain:
        """One domain by name.

        Raises:
            UserError: there is none; the message names those that exist.
        """
        for domain in self.domains:
            if domain.name == name:
                return domain
        known = ", ".join(domain.name for domain in self.domains)
        raise UserError(f"no domain {name!r} in {self.path}; it has: {known}")

    def read(self, domain: str, columns: Sequence[str]) -> pa.Table:
        """Whole columns of a domain in slot order; meant for small ones such as id, slot, label."""
        parts = self.domain(domain).parts
        tables = [pq.read_table(self.path / part.file, columns=list(columns)) for part in parts]
        return pa.concat_tables(tables)

    def batches(self, domain: str, columns: Sequence[str], rows: int = 512) -> Iterator[pa.RecordBatch]:
        """A domain in slot order, at most ``rows`` rows at a time; a batch never spans two parts."""
        for part in self.domain(domain).parts:
            with pq.ParquetFile(self.path / part.file) as file:
                yield from file.iter_batches(batch_size=rows, columns=list(columns))

    def take(self, domain: str, slots: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Single rows by slot, in the order asked for; reads only the row groups that hold them.

        Raises:
            UserError: a slot is not in the domain.
        """
        entry = self.domain(domain)
        wanted = np.asarray(slots, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= entry.images):
            raise UserError(f"slots of {domain!r} in {self.path} run from 0 to {entry.images - 1}")
        needed = np.unique(wanted)
        owner = np.searchsorted([part.first_slot for part in entry.parts], needed, side="right") - 1
        tables = [SCHEMA.empty_table().select(list(columns))]
        for index in np.unique(owner):
            part = entry.parts[index]
            tables.append(_rows(self.path / part.file, needed[owner == index] - part.first_slot, columns))
        return pa.concat_tables(tables).take(pa.array(np.searchsorted(needed, wanted)))


def _rows(path: Path, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Ascending row numbers of one Parquet file."""
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        group = np.searchsorted(starts, rows, side="right") - 1
        tables = [
            file.read_row_group(int(g), columns=list(columns)).take(pa.array(rows[group == g] - starts[g]))
            for g in np.unique(group)
        ]
    return pa.concat_tables(tables)
