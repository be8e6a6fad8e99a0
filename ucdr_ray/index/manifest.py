"""What an index version holds: the schema of its ``manifest.json`` and the check of its files."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ucdr_ray.embeddings import ModelRef
from ucdr_ray.index.kinds import ApproximateKind, Kind, in_memory
from ucdr_ray.records import FileRecord, Record, Sha256

Share = Annotated[float, Field(ge=0, le=1)]


class Approximate(FileRecord):
    """A shortcut to candidates for a shard's nearest rows, which then are scored by their vectors.

    ``effort``: cells probed, or with "hnsw" candidates kept while walking. ``fetch``: candidates for each row wanted.
    """

    kind: ApproximateKind
    effort: PositiveInt
    fetch: PositiveInt


class Shown(FileRecord):
    """What an answer shows of rows. ``memory``: the bytes that a process takes to hold it, without thumbnails."""

    memory: PositiveInt


class Deleted(FileRecord):
    """Slots of a shard's rows that no search finds any more."""

    rows: PositiveInt


class ShardEntry(Record):
    """Rows ``first_slot … first_slot + rows - 1`` of a domain: their vectors, and what an answer shows of them."""

    domain: str
    first_slot: NonNegativeInt
    rows: PositiveInt
    vectors: FileRecord
    metadata: Shown
    approximate: Approximate | None = None
    deleted: Deleted | None = None

    @model_validator(mode="after")
    def _lies_in_shards(self) -> Self:
        for record in self.files:
            if not record.file.startswith("shards/"):
                raise ValueError(f"{record.file} lies outside shards/")
        if self.deleted is not None and self.deleted.rows > self.rows:
            raise ValueError(f"{self.deleted.rows} of {self.rows} rows are deleted")
        return self

    @property
    def files(self) -> list[FileRecord]:
        """Every file of the shard."""
        return [
            file for file in (self.vectors, self.metadata, self.approximate, self.deleted) if file is not None
        ]

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files)

    @property
    def memory(self) -> int:
        """Bytes of a process that holds it: of vectors, where every search reads them all."""
        vectors = self.vectors.bytes if self.kind == "exact" else 0
        made = self.approximate
        return vectors + (in_memory(made.kind, made.bytes) if made else 0) + self.metadata.memory

    @property
    def kind(self) -> str:
        """How it is searched."""
        return "exact" if self.approximate is None else self.approximate.kind

    @property
    def live(self) -> int:
        """Rows that can be found."""
        return self.rows - (0 if self.deleted is None else self.deleted.rows)


class PairRecall(Record):
    """Share of the exact top ``k`` that queries of one domain found in another when the version was made.

    See `ucdr_ray.index.recall`.
    """

    query: str
    gallery: str
    k: PositiveInt
    recall: Share


class Refused(Record):
    """Share of a domain's own images to which nothing in another one would be said to match."""

    query: str
    gallery: str
    share: Share


class Common(FileRecord):
    """What domains have in common, by which it is judged whether anything matches. See `ucdr_ray.index.open_set`.

    ``domains``: in the file's order. ``quantile``: of the distances between merged clusters, up to which is near.
    """

    file: Literal["open_set.safetensors"]
    domains: Annotated[list[str], Field(min_length=2)]
    quantile: Share
    refused: list[Refused]


class Origin(Record):
    """Fingerprints of what the version was built from."""

    catalog: Sha256
    embeddings: Sha256


class Totals(Record):
    """``rows``: those that can be found."""

    domains: PositiveInt
    rows: PositiveInt
    bytes: PositiveInt


class Manifest(Record):
    """The content of ``manifest.json``. Its SHA-256 is part of the version's name, so it can't change unseen.

    ``kind`` and ``recall`` are what was asked for; what shards have, and what was found, is with them and ``recalls``.
    ``before``: the version that was in use when this one was written, if any was.
    """

    format: Literal["ucdr-index"] = "ucdr-index"
    schema_version: Literal[3] = 3
    created: str
    before: str | None = None
    model: ModelRef
    dim: PositiveInt
    metric: Literal["cosine"] = "cosine"
    kind: Kind
    recall: Share
    origins: list[Origin]
    shards: list[ShardEntry]
    recalls: list[PairRecall]
    encoder: list[FileRecord]
    common: Common | None = None
    totals: Totals

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        for domain in self.domains:
            slot = 0
            for shard in self.shards_of(domain):
                if shard.first_slot != slot:
                    raise ValueError(f"a shard of {domain} starts at slot {shard.first_slot}, not {slot}")
                slot += shard.rows
        names = [record.file for record in self.files]
        if len(set(names)) != len(names):
            raise ValueError("a file is named twice")
        if not all(record.file.startswith("encoder/") for record in self.encoder):
            raise ValueError("an encoder file lies outside encoder/")
        if self.totals != totals(self.shards, self.beside):
            raise ValueError("totals do not add up")
        return self

    @property
    def domains(self) -> list[str]:
        """Names, sorted."""
        return sorted({shard.domain for shard in self.shards})

    @property
    def files(self) -> list[FileRecord]:
        """Every file of the version but the manifest itself."""
        return [*(record for shard in self.shards for record in shard.files), *self.beside]

    @property
    def beside(self) -> list[FileRecord]:
        """Every file that belongs to no shard."""
        return [*self.encoder, *([self.common] if self.common else [])]

    def shards_of(self, domain: str) -> list[ShardEntry]:
        """The domain's shards in slot order."""
        return sorted(
            (entry for entry in self.shards if entry.domain == domain), key=lambda entry: entry.first_slot
        )

    def parts(self, count: int) -> list[list[ShardEntry]]:
        """The shards in so many groups that take nearly the same memory, some of which may be empty."""
        groups: list[list[ShardEntry]] = [[] for _ in range(count)]
        sizes = [0] * count
        for entry in sorted(self.shards, key=lambda entry: (-entry.memory, entry.domain, entry.first_slot)):
            least = sizes.index(min(sizes))
            groups[least].append(entry)
            sizes[least] += entry.memory
        return groups

    def rows_of(self, domain: str) -> int:
        """Number of images in a domain that can be found."""
        return sum(entry.live for entry in self.shards if entry.domain == domain)

    def check_files(self, folder: Path, shards: list[ShardEntry] | None = None) -> None:
        """Hold every file against its checksum; FAISS would load many damaged files without a word.

        Args:
            shards: only the files of these, and those of no shard.

        Raises:
            UserError: names the first file that is missing or damaged.
        """
        chosen = self.shards if shards is None else shards
        for record in [*(record for shard in chosen for record in shard.files), *self.beside]:
            record.check(folder, "index")


def totals(shards: list[ShardEntry], beside: list[FileRecord]) -> Totals:
    """Sums over a version's domains and files, also those beside its shards."""
    records = [*(record for shard in shards for record in shard.files), *beside]
    return Totals(
        domains=len({shard.domain for shard in shards}),
        rows=sum(shard.live for shard in shards),
        bytes=sum(record.bytes for record in records),
    )
