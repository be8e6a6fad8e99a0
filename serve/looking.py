"""Many questions to one version of an index: the same answers in one process, or from parts that are merged."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ucdr_ray.index.merge import Hit, merge
from ucdr_ray.index.search import Index

ByDomain = dict[str, list[Hit]]
Column = tuple[list[float], list[str], list[int], list[str]]  # hits on the wire: scores, ids, slots, sources


class Wish(NamedTuple):
    """What a question wants: the top ``k`` of each of ``domains``, found by the shortcuts or without."""

    domains: tuple[str, ...]
    k: int
    exact: bool


@dataclass(frozen=True)
class Question:
    """A unit vector float32 (dim,), to be answered from one version."""

    vector: np.ndarray
    wish: Wish
    index: Index
    deadline: float  # of the event loop's clock


@dataclass(frozen=True)
class Looked:
    """What was found, in which version, by how many of its shards that were to answer."""

    index: Index
    by_domain: ByDomain
    answered: int
    total: int


@dataclass(frozen=True)
class Row:
    """An image of the index: its vector, float32 (dim,), and a small encoded image."""

    domain: str
    vector: np.ndarray
    thumbnail: bytes


class Searcher(Protocol):
    """Where answers come from: this process, or parts of the index elsewhere."""

    @property
    def newest(self) -> Index:
        """The version that new questions are for; perhaps without its shards."""

    async def search(self, questions: Sequence[Question]) -> list[Looked]:
        """Answers to questions with the same wishes and version. Raises Refusal where there is none."""

    async def row(self, id_: str, domain: str | None, index: Index) -> Row | None:
        """One image. Raises Refusal."""

    async def refresh(self) -> str:
        """Take up the version in use, everywhere."""

    async def missing(self) -> list[str]:
        """What does not answer; nothing when ready."""


def look(index: Index, vectors: np.ndarray, wishes: Sequence[Wish]) -> list[ByDomain]:
    """Search (Q, dim) unit rows, those with the same wishes together."""
    alike: dict[tuple[int, bool, str], list[int]] = defaultdict(list)
    for number, wish in enumerate(wishes):
        for domain in wish.domains:
            alike[wish.k, wish.exact, domain].append(number)
    found: list[ByDomain] = [{} for _ in wishes]
    for (k, exact, domain), numbers in alike.items():
        for number, hits in zip(
            numbers, index.domain(domain).search(vectors[numbers], k, exact), strict=True
        ):
            found[number][domain] = hits
    return found


def row_of(index: Index, id_: str, domain: str | None) -> Row | None:
    """An image that this process holds."""
    place = index.find(id_, domain)
    if place is None:
        return None
    opened = index.domain(place[0])
    return Row(place[0], opened.vectors(np.array([place[1]]))[0], opened.thumbnail(place[1]))


def pack(found: ByDomain) -> dict[str, Column]:
    """Hits as columns, which travel at a fraction of their cost."""
    return {
        domain: (
            [hit.score for hit in hits],
            [hit.id for hit in hits],
            [hit.slot for hit in hits],
            [hit.source for hit in hits],
        )
        for domain, hits in found.items()
        if hits
    }


def unpack(domain: str, column: Column) -> list[Hit]:
    """What `pack` packed."""
    return [Hit(score, domain, id_, slot, source) for score, id_, slot, source in zip(*column, strict=True)]


def merged(parts: Iterable[dict[str, Column]], wish: Wish) -> ByDomain:
    """One answer of those of several parts; exact if each part holds its own top k."""
    lists: dict[str, list[list[Hit]]] = {domain: [] for domain in wish.domains}
    for part in parts:
        for domain, column in part.items():
            lists[domain].append(unpack(domain, column))
    return {
        domain: merge(some, wish.k) if len(some) > 1 else [hit for hits in some for hit in hits]
        for domain, some in lists.items()
    }
