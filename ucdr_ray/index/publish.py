"""A new version: written out of sight, checked, made visible by one rename, and only then put in use."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ucdr_ray.embeddings import ModelRef
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import staged_folder, write_json
from ucdr_ray.index.kinds import Kind
from ucdr_ray.index.manifest import Common, Manifest, Origin, PairRecall, ShardEntry, totals
from ucdr_ray.index.search import Index, OpenDomain
from ucdr_ray.index.versions import (
    clear_unfinished,
    current,
    number_of,
    set_current,
    version_folder,
    version_name,
    versions,
)
from ucdr_ray.index.write_shard import ShardTask
from ucdr_ray.records import FileRecord

CHECKED_ROWS = 64  # per domain, found by their own vectors before a version is published


@dataclass(frozen=True)
class Draft:
    """What a new version is to say of itself; its files lie in the folder that `writing` gave."""

    model: ModelRef
    dim: int
    kind: Kind
    recall: float
    origins: list[Origin]
    shards: list[ShardEntry]
    recalls: list[PairRecall]
    encoder: list[FileRecord]
    common: Common | None = None

    def manifest(self, before: str | None = None) -> Manifest:
        return Manifest(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            before=before,
            totals=totals(self.shards, [*self.encoder, *([self.common] if self.common else [])]),
            **vars(self),
        )


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A hidden folder for the files of a new version of the index at ``out``, in which nobody else writes meanwhile.

    Raises:
        UserError: another process does already.
    """
    folder = out / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(out):
        clear_unfinished(out)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
            yield Path(scratch)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Alone in writing to the index at ``out``.

    Raises:
        UserError: another process is.
    """
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"{out}: another process is building an index there, or changing it") from None


def publish(out: Path, scratch: Path, draft: Draft, tasks: list[ShardTask]) -> Index:
    """Put the finished draft in use. The version before stays, and stays in use if anything fails.

    Args:
        tasks: those by which its new shards were written.

    Raises:
        JobError: the version does not hold, or does not find, its own rows.
    """
    manifest = draft.manifest(_in_use(out))
    write_json(scratch / "manifest.json", manifest.model_dump())
    number = number_of(versions(out)[-1]) + 1 if versions(out) else 1
    name = version_name(number, scratch / "manifest.json")
    with staged_folder(version_folder(out, name)) as staging:
        for child in scratch.iterdir():
            os.rename(child, staging / child.name)
        manifest.check_files(staging)
        entries = {(entry.domain, entry.first_slot): entry for entry in manifest.shards}
        for task in tasks:
            written = [entries[task.domain, task.first_slot]]
            _check(OpenDomain(staging, manifest, task.domain, written), task, draft.recall)
    set_current(out, name)
    return Index(version_folder(out, name), name, manifest)


def _in_use(out: Path) -> str | None:
    try:
        return current(out)
    except UserError:  # none, or its name is damaged, which a whole new version mends
        return None


def _check(domain: OpenDomain, task: ShardTask, recall: float) -> None:
    """Hold a seeded sample of a new shard's rows against their source: right, in their places, and found."""
    places = np.random.default_rng(0).choice(
        len(task.slots), min(CHECKED_ROWS, len(task.slots)), replace=False
    )
    queries, slots = task.source.vectors(task.domain, task.slots[places]), task.first_slot + places
    found = np.array([hits[0].score if hits else -1 for hits in domain.search(queries, k=1)])
    missed = found < (queries.astype(np.float64) ** 2).sum(axis=1) - 1e-3
    foreign = (domain.vectors(slots) != queries).any(axis=1)
    bad = foreign if foreign.any() else missed
    if foreign.any() or missed.mean() > (1 - recall if task.kind else 0):
        raise JobError(
            f"the new version does not find slot {slots[bad.argmax()]} of {task.domain} by its own vector: "
            "not published"
        )
