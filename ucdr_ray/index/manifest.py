"""What an index version holds: the schema of its ``manifest.json`` and the check of its files."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ucdr_ray.embeddings import ModelRef
from ucdr_ray.records import FileRecord, Record, Sha256


class ShardEntry(FileRecord):
    """Vectors of a domain: row i of the file is slot ``first_slot + i``."""

    file: Annotated[str, Field(pattern=r"^shards/[^/]+-\d{5}\.faiss$")]
    domain: str
    kind: Literal["exact"]
    rows: PositiveInt
    first_slot: NonNegativeInt


class MetadataEntry(FileRecord):
    """Id, source and thumbnail of every row of a domain, in slot order."""

    file: Annotated[str, Field(pattern=r"^metadata/[^/]+\.parquet$")]
    domain: str
    rows: PositiveInt


class Origin(Record):
    """Fingerprints of what the version was built from."""

    catalog: Sha256
    embeddings: Sha256


class Totals(Record):
    domains: PositiveInt
    rows: PositiveInt
    bytes: PositiveInt


class Manifest(Record):
    """The content of ``manifest.json``. Its SHA-256 is part of the version's name, so it can't change unseen."""

    format: Literal["ucdr-index"] = "ucdr-index"
    schema_version: Literal[1] = 1
    created: str
    model: ModelRef
    dim: PositiveInt
    metric: Literal["cosine"] = "cosine"
    origin: Origin
    shards: list[ShardEntry]
    metadata: list[MetadataEntry]
    encoder: list[FileRecord]
    totals: Totals

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if len({entry.domain for entry in self.metadata}) != len(self.metadata):
            raise ValueError("a domain has more than one metadata file")
        if {entry.domain for entry in self.shards} != set(self.domains):
            raise ValueError("shards and metadata name different domains")
        for entry in self.metadata:
            slot = 0
            for shard in self.shards_of(entry.domain):
                if shard.first_slot != slot:
                    raise ValueError(f"{shard.file} starts at slot {shard.first_slot}, not {slot}")
                slot += shard.rows
            if slot != entry.rows:
                raise ValueError(
                    f"domain {entry.domain} has {slot} vectors and {entry.rows} rows of metadata"
                )
        if not all(record.file.startswith("encoder/") for record in self.encoder):
            raise ValueError("an encoder file lies outside encoder/")
        if self.totals != totals(self.files, self.metadata):
            raise ValueError("totals do not add up")
        return self

    @property
    def domains(self) -> list[str]:
        """Names, sorted."""
        return sorted(entry.domain for entry in self.metadata)

    @property
    def files(self) -> list[FileRecord]:
        """Every file of the version but the manifest itself."""
        return [*self.shards, *self.metadata, *self.encoder]

    def shards_of(self, domain: str) -> list[ShardEntry]:
        """The domain's shards in slot order."""
        return sorted(
            (entry for entry in self.shards if entry.domain == domain), key=lambda entry: entry.first_slot
        )

    def rows_of(self, domain: str) -> int:
        """Number of images in a domain."""
        return next(entry.rows for entry in self.metadata if entry.domain == domain)

    def check_files(self, folder: Path) -> None:
        """Hold every file against its checksum; FAISS would load many damaged files without a word.

        Raises:
            UserError: names the first file that is missing or damaged.
        """
        for record in self.files:
            record.check(folder, "index")


def totals(files: list[FileRecord], metadata: list[MetadataEntry]) -> Totals:
    """Sums over a version's files and domains."""
    return Totals(
        domains=len(metadata),
        rows=sum(entry.rows for entry in metadata),
        bytes=sum(record.bytes for record in files),
    )
