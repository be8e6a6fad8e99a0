"""One order of answers, whatever the shards: score descending, then domain, id and slot ascending."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """n rows of one domain that may be among the best: scores float32 (n,), slots int64 (n,), ids bytes (n,)."""

    scores: np.ndarray
    slots: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class Hit:
    """A found image; ``score`` is the cosine, rounded to float32, in [-1, 1]."""

    score: float
    domain: str
    id: str
    slot: int
    source: str


def best(parts: Sequence[Candidates], k: int) -> Candidates:
    """The top ``k`` of one domain's shards, in order. Exact if each part holds its own top k with all ties."""
    scores, slots, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((slots, ids, -scores))[:k]
    return Candidates(scores[order], slots[order], ids[order])


def merge(parts: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """The top ``k`` of several ordered lists of hits."""
    return list(islice(heapq.merge(*parts, key=lambda hit: (-hit.score, hit.domain, hit.id, hit.slot)), k))
