"""Cells and codes, learnt once from rows of all domains, for every shard that a version gets."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ucdr_ray.index import kinds
from ucdr_ray.index.source import Source
from ucdr_ray.index.write_shard import ShardTask


@contextmanager
def learnt(tasks: list[ShardTask], folder: Path) -> Iterator[list[ShardTask]]:
    """The same tasks with what they need for their shortcuts, below ``folder`` until the block ends."""
    counts = {
        task.name: kinds.cells(len(task.slots)) for task in tasks if task.kind not in (None, *kinds.UNTAUGHT)
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".learnt-") as scratch:
        files = {count: Path(scratch) / f"{count}.faiss" for count in set(counts.values())}
        if files:
            sample = drawn(tasks[0].source, rows_of(tasks), kinds.sample_size(max(files)))
            (kind,) = {task.kind for task in tasks if task.kind is not None}
            for count, file in files.items():
                kinds.write(kinds.learnt(kind, tasks[0].dim, count, sample), file)
        yield [
            replace(task, learnt=files[counts[task.name]]) if task.name in counts else task for task in tasks
        ]


def rows_of(tasks: list[ShardTask]) -> dict[str, np.ndarray]:
    """By domain, the slots of all its shards in the source."""
    found: dict[str, list[np.ndarray]] = {}
    for task in tasks:
        found.setdefault(task.domain, []).append(task.slots)
    return {domain: np.concatenate(slots) for domain, slots in found.items()}


def drawn(source: Source, rows: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    """``size`` rows, shuffled, float32 (n, dim): as many of each domain, as far as they have them."""
    generator = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    for left, (domain, slots) in zip(
        range(len(rows), 0, -1), sorted(rows.items(), key=lambda row: len(row[1])), strict=True
    ):
        share = min(len(slots), (size - sum(map(len, parts))) // left)
        parts.append(source.vectors(domain, generator.choice(slots, share, replace=False)))
    return generator.permutation(np.concatenate(parts))
