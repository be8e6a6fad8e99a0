"""Changes of an index, each a new version. Files that stay are shared with the version before, not copied."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.index import kinds
from ucdr_ray.index.build import ROWS_PER_SHARD, cut
from ucdr_ray.index.kinds import UNTAUGHT
from ucdr_ray.index.learn import learnt
from ucdr_ray.index.manifest import Deleted, Manifest, Origin, ShardEntry
from ucdr_ray.index.publish import Draft, locked, publish, writing
from ucdr_ray.index.recall import with_efforts
from ucdr_ray.index.search import Index
from ucdr_ray.index.shard import live_slots
from ucdr_ray.index.source import Built, Embedded, check_catalog
from ucdr_ray.index.versions import current, read_manifest, set_current, versions
from ucdr_ray.index.write_shard import Advance, ShardTask, Writer, write_all
from ucdr_ray.records import FileRecord

_NAMED = 3  # unknown ids in a message


def add(
    out: Path,
    embeddings: Embeddings,
    catalog: Catalog,
    advance: Advance = lambda rows: None,
    write_shards: Writer = write_all,
) -> Index:
    """Add the rows whose ids their domain does not have yet, and new domains. Without any, the version stays.

    They become shards of their own at the end of their domain. Cells and codes of shortcuts stay as they were learnt.

    Raises:
        UserError: the embeddings are of another model or catalog, or another process writes to the index.
        JobError: as `ucdr_ray.index.build.build`.
    """
    check_catalog(embeddings, catalog)
    with _changing(out) as (base, scratch):
        manifest = base.manifest
        if (embeddings.model, embeddings.dim) != (manifest.model, manifest.dim):
            raise UserError(
                f"{embeddings.path} was made by the model {embeddings.model.fingerprint[:12]}, the index at {out} by "
                f"{manifest.model.fingerprint[:12]}: allowed are vectors of the same model"
            )
        source = Embedded(embeddings.path.resolve(), catalog.path.resolve())
        rows = {domain.name: _new(base, embeddings, domain.name) for domain in embeddings.domains}
        tasks = cut(source, scratch, rows, manifest.dim, manifest.kind, ROWS_PER_SHARD, behind=manifest)
        if not tasks:
            return base
        _share(base.folder, scratch, manifest.files)
        with _with_cells(base, tasks, scratch) as ready:
            shards = write_shards(ready, advance)
        origin = Origin(catalog=catalog.fingerprint, embeddings=embeddings.manifest.checksum)
        draft = replace(
            _draft(manifest), shards=[*manifest.shards, *shards], origins=[*manifest.origins, origin]
        )
        return publish(out, scratch, with_efforts(draft, scratch), tasks)


def delete(out: Path, ids: Sequence[str], domains: Sequence[str] | None = None) -> Index:
    """Let no search find these images any more. Their rows stay in their files until the index is compacted.

    Args:
        domains: only there; wherever they are without it.

    Raises:
        UserError: an id is in none of the domains, in which case none is deleted, or no image would be left.
    """
    with _changing(out) as (base, scratch):
        if strange := [id_ for id_ in ids if "\0" in id_]:  # NumPy would leave out the end
            raise UserError(f"{strange[0]!r} is not an id: none was deleted")
        bytes_ = [id_.encode(errors="surrogatepass") for id_ in ids]
        wanted, found = np.unique(np.array(bytes_, np.bytes_)), []
        shards = {(entry.domain, entry.first_slot): entry for entry in base.manifest.shards}
        stale = []
        for name in base.manifest.domains if domains is None else dict.fromkeys(domains):
            for shard in base.stored(name).shards:
                slots = shard.slots[np.isin(shard.ids(shard.slots), wanted)]
                if not len(slots):
                    continue
                found.append(shard.ids(slots))
                entry = shard.entry
                gone = np.setdiff1d(np.arange(entry.first_slot, entry.first_slot + entry.rows), shard.slots)
                shards[name, entry.first_slot] = _without(scratch, entry, np.union1d(gone, slots))
                stale += [entry.deleted] if entry.deleted else []
        if len(missing := np.setdiff1d(wanted, np.concatenate([*found, wanted[:0]]))):
            some = ", ".join(id_.decode(errors="replace") for id_ in missing[:_NAMED].tolist())
            raise UserError(
                f"{len(missing)} of {len(wanted)} ids are not in the index at {out}, such as {some}: none was deleted"
            )
        if not any(entry.live for entry in shards.values()):
            raise UserError(f"nothing would be left of the index at {out}: at least one image must stay")
        _share(base.folder, scratch, [record for record in base.manifest.files if record not in stale])
        draft = replace(_draft(base.manifest), shards=list(shards.values()))
        return publish(out, scratch, with_efforts(draft, scratch), [])


def compact(
    out: Path,
    advance: Advance = lambda rows: None,
    write_shards: Writer = write_all,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> Index:
    """Write all rows that can be found anew: without the deleted ones, in as few shards as possible, in new cells.

    Slots change; ids do not.
    """
    with _changing(out) as (base, scratch):
        manifest, source = base.manifest, Built(base.folder, base.manifest)
        rows = {name: live_slots(base.folder, manifest.shards_of(name)) for name in manifest.domains}
        tasks = cut(source, scratch, rows, manifest.dim, manifest.kind, rows_per_shard)
        _share(base.folder, scratch, manifest.beside)
        with learnt(tasks, scratch) as ready:
            shards = write_shards(ready, advance)
        draft = replace(_draft(manifest), shards=shards)
        return publish(out, scratch, with_efforts(draft, scratch), tasks)


def tune(out: Path, recall: float) -> Index:
    """Let shortcuts search as hard as ``recall`` asks for, from 0 to 1.

    Raises:
        UserError: the index has no shortcuts.
        JobError: the recall is out of reach.
    """
    with _changing(out) as (base, scratch):
        if not any(entry.approximate for entry in base.manifest.shards):
            raise UserError(f"the index at {out} compares with all rows: there is nothing to tune")
        _share(base.folder, scratch, base.manifest.files)
        draft = replace(_draft(base.manifest), recall=recall)
        return publish(out, scratch, with_efforts(draft, scratch), [])


def rollback(out: Path, version: str | None = None) -> Index:
    """Put the version in use that the present one followed, or the one named, once it is found whole.

    By name also where ``CURRENT`` is damaged.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if version is None or not versions(out):
        current(out)  # refused where there is no index, before anything is written there
    with locked(out):
        wanted = version or _before(out)
        if wanted not in versions(out):
            raise UserError(f"no version {wanted!r} in {out}; it has: {', '.join(versions(out))}")
        index = Index.open(out, wanted)
        set_current(out, index.version)
        return index


def _before(out: Path) -> str:
    used = current(out)
    before = read_manifest(out, used).before
    if before is None:
        raise UserError(
            f"there was no version in use before {used} in {out}; it has: {', '.join(versions(out))}"
        )
    return before


@contextmanager
def _changing(out: Path) -> Iterator[tuple[Index, Path]]:
    """The version in use, verified, and a folder for the next one; refused, where there is no index, with no trace."""
    current(out)
    with writing(out) as scratch:
        yield Index.open(out), scratch


def _new(base: Index, embeddings: Embeddings, domain: str) -> np.ndarray:
    """Slots of the embeddings whose ids the domain does not have."""
    ids = np.array(embeddings.ids(domain).to_pylist(), np.bytes_)
    if domain not in base.manifest.domains:
        return np.arange(len(ids))
    return np.flatnonzero(~np.isin(ids, base.stored(domain).live()[1]))


@contextmanager
def _with_cells(base: Index, tasks: list[ShardTask], folder: Path) -> Iterator[list[ShardTask]]:
    """Tasks with the cells of the index's largest shortcut; where it has none, with cells learnt from the new rows.

    Where the cells are more than half the rows, they would take more than they save: such shards get no shortcut.
    """
    shortcuts = [entry for entry in base.manifest.shards if entry.approximate and entry.kind not in UNTAUGHT]
    if not shortcuts:
        with learnt(tasks, folder) as ready:
            yield ready
        return
    largest = max(shortcuts, key=lambda entry: entry.rows).approximate
    assert largest is not None
    file = base.folder / largest.file
    fewest = 2 * int(kinds.emptied(file).nlist)
    yield [
        replace(task, kind=None) if len(task.slots) < fewest else replace(task, learnt=file) for task in tasks
    ]


def _without(scratch: Path, entry: ShardEntry, slots: np.ndarray) -> ShardEntry:
    """The shard without ``slots``, ascending, which are all that it ever lost."""
    name = f"{Path(entry.vectors.file).parent.as_posix()}/deleted.parquet"
    (scratch / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"slot": slots}), scratch / name)
    return entry.model_copy(update={"deleted": Deleted.of(scratch, name, rows=len(slots))})


def _share(base: Path, scratch: Path, records: Sequence[FileRecord]) -> None:
    """The same files in a new version: links where the file system has them, else copies."""
    for record in records:
        target = scratch / record.file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(base / record.file, target)
        except OSError:
            shutil.copyfile(base / record.file, target)


def _draft(manifest: Manifest) -> Draft:
    return Draft(**{field.name: getattr(manifest, field.name) for field in fields(Draft)})
