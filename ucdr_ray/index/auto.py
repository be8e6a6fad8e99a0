"""The kind that an index is built with when nobody says which, decided before anything is written."""

from dataclasses import dataclass

import numpy as np

from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.index.kinds import Kind
from ucdr_ray.index.plan import EXACT_UP_TO, Estimate, choose, estimate, estimates, expected_recalls
from ucdr_ray.index.source import Embedded

_ROW_BYTES = 32 + 8 + 48  # in memory: an id, an offset, and a path of middling length


@dataclass(frozen=True)
class Plan:
    """What will be built, and what it was chosen from, if it was."""

    chosen: Estimate
    compared: list[Estimate]


def plan(
    embeddings: Embeddings,
    source: Embedded,
    kind: Kind | None,
    memory: int | None,
    recall: float,
    rows_per_shard: int,
) -> Plan:
    """Choose, and say what it will take.

    Args:
        kind: the one asked for; chosen without it.
        memory: bytes that a process which holds the index may take.

    Raises:
        UserError: nothing fits; says what each kind would take.
    """
    rows = [
        min(rows_per_shard, domain.rows - first)
        for domain in embeddings.domains
        for first in range(0, domain.rows, rows_per_shard)
    ]
    if kind is not None or (max(rows) <= EXACT_UP_TO and _fits(rows, embeddings.dim, memory)):
        found = estimate(kind or "exact", rows, embeddings.dim, _ROW_BYTES)
        if memory is not None and found.memory > memory:
            raise UserError(
                f"--memory {memory / 1e6:,.0f} MB: an index of kind {found.kind} takes {found.memory / 1e6:,.0f} MB"
            )
        return Plan(found, [])
    slots = {domain.name: np.arange(domain.rows) for domain in embeddings.domains}
    every = estimates(rows, embeddings.dim, _ROW_BYTES, expected_recalls(source, slots, embeddings.dim))
    return Plan(choose(every, memory, recall, max(rows)), every)


def _fits(rows: list[int], dim: int, memory: int | None) -> bool:
    return memory is None or estimate("exact", rows, dim, _ROW_BYTES).memory <= memory
