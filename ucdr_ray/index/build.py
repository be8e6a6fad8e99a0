"""Build an index version from embeddings, check it, and only then put it in use."""

import shutil
from pathlib import Path

import numpy as np

from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.index.kinds import SMALLEST, Kind
from ucdr_ray.index.learn import learnt
from ucdr_ray.index.manifest import Common, Manifest, Origin, Refused
from ucdr_ray.index.open_set import OpenSet
from ucdr_ray.index.publish import Draft, publish, writing
from ucdr_ray.index.recall import with_efforts
from ucdr_ray.index.search import Index, check_encoder
from ucdr_ray.index.source import Embedded, Source, check_catalog
from ucdr_ray.index.write_shard import Advance, ShardTask, Writer, shard_name, write_all
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.prototypes import SAMPLED
from ucdr_ray.records import files_under

ROWS_PER_SHARD = 1_000_000  # a shard is built in memory: 1 GB at 256 dimensions, and its shortcut
RECALL = 0.97


def build(
    embeddings: Embeddings,
    catalog: Catalog,
    out: Path,
    kind: Kind = "exact",
    recall: float = RECALL,
    rows_per_shard: int = ROWS_PER_SHARD,
    advance: Advance = lambda rows: None,
    write_shards: Writer = write_all,
    null: float | None = None,
) -> Index:
    """Write a new version of the index at ``out`` and make it current. The old one stays, and stays current on failure.

    Args:
        catalog: the catalog that was embedded; gives sources and thumbnails.
        kind: of shortcuts, for shards of 1,000 rows and more.
        recall: share of the exact top 10 that queries of every domain must find in every other.
        advance: called with the number of rows finished since the last call; each row counts once.
        null: learn whether anything in a domain matches a query from another; up to this quantile of the distances
            between images of the same, from 0 to 1, an image counts as near (`ucdr_ray.index.open_set`).

    Raises:
        UserError: embeddings, catalog and encoder do not belong together, there is one domain alone and ``null`` is
            wanted, or another build is under way.
        JobError: an image can't be decoded (named), the recall is out of reach, or the finished version does not find
            its own rows.
    """
    check_catalog(embeddings, catalog)
    encoder = embeddings.path / "encoder"
    check_encoder(Encoder.load(encoder), embeddings.model, embeddings.dim, encoder)
    source = Embedded(embeddings.path.resolve(), catalog.path.resolve())
    rows = {domain.name: np.arange(domain.rows) for domain in embeddings.domains}
    with writing(out) as scratch:
        shutil.copytree(encoder, scratch / "encoder")
        with learnt(cut(source, scratch, rows, embeddings.dim, kind, rows_per_shard), scratch) as tasks:
            shards = write_shards(tasks, advance)
        draft = Draft(
            model=embeddings.model,
            dim=embeddings.dim,
            kind=kind,
            recall=recall,
            origins=[Origin(catalog=catalog.fingerprint, embeddings=embeddings.manifest.checksum)],
            shards=shards,
            recalls=[],
            encoder=files_under(scratch, "encoder"),
            common=None if null is None else _common(source, rows, null, scratch),
        )
        return publish(out, scratch, with_efforts(draft, scratch), tasks)


def _common(source: Source, rows: dict[str, np.ndarray], quantile: float, scratch: Path) -> Common:
    """Learn what domains have in common from rows of each, and write it."""
    if len(rows) < 2:
        raise UserError(
            f"whether anything matches is judged between domains; there is one alone: {', '.join(rows)}"
        )
    generator = np.random.default_rng(0)
    samples = {
        domain: source.vectors(domain, generator.choice(slots, min(len(slots), SAMPLED), replace=False))
        for domain, slots in rows.items()
    }
    found = OpenSet.fit(samples)
    found.save(scratch / "open_set.safetensors")
    refused = found.refused(samples, quantile)
    return Common.of(
        scratch,
        "open_set.safetensors",
        domains=list(samples),
        quantile=quantile,
        refused=[Refused(query=a, gallery=b, share=share) for (a, b), share in refused.items()],
    )


def cut(
    source: Source,
    folder: Path,
    rows: dict[str, np.ndarray],
    dim: int,
    kind: Kind,
    rows_per_shard: int,
    behind: Manifest | None = None,
) -> list[ShardTask]:
    """Shards of a new version, by domain and then by rows.

    Args:
        rows: by domain, slots in the source, ascending.
        behind: a version whose shards stay; new ones follow on its own.
    """
    tasks = []
    for domain, slots in rows.items():
        before = [] if behind is None else behind.shards_of(domain)
        taken = sum(entry.rows for entry in before)
        for number, first in enumerate(range(0, len(slots), rows_per_shard), len(before)):
            some = slots[first : first + rows_per_shard]
            shortcut = None if kind == "exact" or len(some) < SMALLEST else kind
            tasks.append(
                ShardTask(
                    source, folder, domain, shard_name(domain, number), taken + first, some, dim, shortcut
                )
            )
    return tasks
