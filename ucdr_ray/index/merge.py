"""One order of answers, whatever the shards: score descending, then domain, id and slot ascending."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """n rows of one domain, in order: scores float32 (n,), slots int64 (n,), ids bytes (n,)."""

    scores: np.ndarray
    slots: np.ndarray
    ids: np.ndarray


class Hit(NamedTuple):
    """A found image; ``score`` is the cosine, rounded to float32, in [-1, 1]."""

    score: float
    domain: str
    id: str
    slot: int
    source: str


def best(parts: Sequence[Candidates], k: int) -> Candidates:
    """The top ``k`` of one domain, in order, from rows in any order; exact if each part holds its own top k."""
    scores, slots, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((slots, ids, -scores))[:k]
    return Candidates(scores[order], slots[order], ids[order])


def merge(parts: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """The top ``k`` of several ordered lists of hits, of which ``k`` of each are enough."""
    return sorted(chain.from_iterable(parts), key=lambda hit: (-hit.score, hit.domain, hit.id, hit.slot))[:k]
