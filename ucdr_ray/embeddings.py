"""Embeddings on disk: unit vectors by domain and slot, with the encoder that made them.

```
EMBEDDINGS/
  manifest.json                              what is here, with checksums; written last
  encoder/                                   the encoder, so that an index can embed queries
  vectors/<domain dir>/part-NNNNN.parquet    id, domain, slot, vector fixed_size_list<float32>[dim]
  vectors/<domain dir>/part-NNNNN.json       receipt of a finished part, by which an interrupted job goes on
```
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint
from ucdr_ray.records import FileRecord, Record, Sha256, read_record

UNIT_TOLERANCE = 1e-3  # float32 rows leave the encoder within 1e-6; half precision within 1e-3
PartFile = Annotated[str, Field(pattern=r"^(vectors|latents)/[^/]*[^/.][^/]*/part-\d{5,}\.parquet$")]


class ModelRef(Record):
    """Which encoder made the vectors."""

    name: str
    fingerprint: Sha256


class CatalogRef(Record):
    """Which catalog was embedded; ``path`` is where it lay then."""

    fingerprint: Sha256
    path: str


class Part(FileRecord):
    """Rows ``first_slot … first_slot + rows - 1`` of a domain."""

    file: PartFile
    rows: PositiveInt
    first_slot: NonNegativeInt


class DomainVectors(Record):
    """The parts of one domain, in slot order and without a gap."""

    name: str
    rows: PositiveInt
    parts: list[Part]

    @model_validator(mode="after")
    def _contiguous(self) -> Self:
        slot = 0
        for part in self.parts:
            if part.first_slot != slot:
                raise ValueError(f"{part.file} starts at slot {part.first_slot}, not {slot}")
            slot += part.rows
        if slot != self.rows:
            raise ValueError(f"domain {self.name} has {slot} rows in its parts, not {self.rows}")
        return self


class Manifest(Record):
    """The content of ``manifest.json``; ``checksum`` covers every other field."""

    format: Literal["ucdr-embeddings"] = "ucdr-embeddings"
    version: Literal[1] = 1
    dim: PositiveInt
    model: ModelRef
    catalog: CatalogRef
    domains: list[DomainVectors]
    encoder: list[FileRecord]
    checksum: str = ""

    def digest(self) -> str:
        """Hex SHA-256 of all fields but ``checksum``."""
        return fingerprint(self.model_dump(exclude={"checksum"}))


class Batch(NamedTuple):
    """Consecutive rows of one domain: B ids, the slot of the first, and float32 (B, dim) unit rows."""

    ids: list[str]
    first_slot: int
    vectors: np.ndarray


class Embeddings:
    """An opened embeddings folder."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Self:
        """Open a finished folder; ``verify`` holds every file against its checksum.

        Raises:
            UserError: no manifest, an unknown format, or a file that is missing or damaged (named).
        """
        path = Path(path)
        manifest = read_record(Manifest, path / "manifest.json", "embeddings manifest")
        if manifest.checksum != manifest.digest():
            raise UserError(f"damaged embeddings: {path / 'manifest.json'} does not match its checksum")
        if verify:
            for record in [
                *manifest.encoder,
                *(part for domain in manifest.domains for part in domain.parts),
            ]:
                record.check(path, "embeddings")
        return cls(path, manifest)

    @property
    def domains(self) -> list[DomainVectors]:
        return self.manifest.domains

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def model(self) -> ModelRef:
        return self.manifest.model

    @property
    def catalog(self) -> CatalogRef:
        return self.manifest.catalog

    def domain(self, name: str) -> DomainVectors:
        """One domain by name.

        Raises:
            UserError: there is none; the message names those that exist.
        """
        for domain in self.domains:
            if domain.name == name:
                return domain
        known = ", ".join(domain.name for domain in self.domains)
        raise UserError(f"no domain {name!r} in {self.path}; it has: {known}")

    def batches(self, domain: str, slots: range | None = None) -> Iterator[Batch]:
        """The domain's rows in slot order, one part at a time.

        Args:
            slots: parts without any of these are not read.

        Raises:
            UserError: a part's rows, slots or vectors are not what the manifest says.
        """
        for part in self.domain(domain).parts:
            if slots is not None and not (
                slots.start < part.first_slot + part.rows and part.first_slot < slots.stop
            ):
                continue
            yield _read_part(self.path / part.file, part, domain, self.dim)

    def vectors(self, domain: str) -> np.ndarray:
        """All vectors of a domain, float32 (N, dim), row = slot."""
        return np.concatenate([batch.vectors for batch in self.batches(domain)])

    def ids(self, domain: str) -> pa.ChunkedArray:
        """All ids of a domain, by slot: strings."""
        files = [self.path / part.file for part in self.domain(domain).parts]
        return pa.concat_tables([pq.read_table(file, columns=["id"]) for file in files])["id"]


def _read_part(path: Path, part: Part, domain: str, dim: int) -> Batch:
    table = pq.read_table(path, columns=["id", "domain", "slot", "vector"])
    if table.schema.field("vector").type != pa.list_(pa.float32(), dim) or table["vector"].null_count:
        raise UserError(f"{path}: vectors must be {dim} float32 numbers each")
    slots = np.arange(part.first_slot, part.first_slot + part.rows)
    if not np.array_equal(table["slot"].to_numpy(), slots) or set(table["domain"].to_pylist()) != {domain}:
        raise UserError(
            f"{path}: does not hold slots {slots[0]} to {slots[-1]} of {domain}, as its manifest says"
        )
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dim)
    check_unit(vectors, str(path))
    return Batch(table["id"].to_pylist(), part.first_slot, vectors)


def check_unit(vectors: np.ndarray, where: str) -> None:
    """Raise UserError unless every row of (N, d) is finite and of unit length within 1e-3."""
    off = np.abs(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64) - 1)
    bad = np.flatnonzero(~(off <= 2 * UNIT_TOLERANCE))  # written so that NaN counts as bad
    if bad.size:
        raise UserError(
            f"{where}: row {bad[0]} is not a unit vector (finite, length 1 within {UNIT_TOLERANCE})"
        )
