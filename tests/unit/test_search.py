"""Search answers what a naive float64 search answers, in the documented order, whatever the shards."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.errors import UserError
from ucdr_ray.index.merge import Hit, best, merge
from ucdr_ray.index.search import unit_rows
from ucdr_ray.index.shard import Shard
from ucdr_ray.index.source import Rows
from ucdr_ray.index.write_shard import ShardTask, shard_name, write_shard


@dataclass(frozen=True)
class Given:
    """A source of rows that are nowhere but here."""

    rows: np.ndarray
    ids: np.ndarray

    def batches(self, domain: str, slots: np.ndarray) -> Iterator[Rows]:
        ids = [id_.decode() for id_ in self.ids[slots]]
        yield Rows(ids, self.rows[slots], [""] * len(slots), [b""] * len(slots))


def shards_of(folder: Path, vectors: np.ndarray, ids: np.ndarray, rows_per_shard: int) -> list[Shard]:
    shards = []
    for number, first in enumerate(range(0, len(vectors), rows_per_shard)):
        slots = np.arange(first, min(first + rows_per_shard, len(vectors)))
        name = shard_name("photo", number)
        task = ShardTask(Given(vectors, ids), folder, "photo", name, first, slots, vectors.shape[1])
        shards.append(Shard(folder, write_shard(task), vectors.shape[1]))
    return shards


def search(shards: list[Shard], queries: np.ndarray, k: int) -> list[list[tuple]]:
    answers = []
    for parts in zip(*(shard.search(queries, k) for shard in shards), strict=True):
        top = best(parts, k)
        answers.append(list(zip(top.scores.tolist(), top.ids.tolist(), top.slots.tolist(), strict=True)))
    return answers


def naive(vectors: np.ndarray, ids: np.ndarray, query: np.ndarray, k: int) -> list[tuple]:
    """Exactly rounded sums of exact products, then Python's own sort."""
    scores = [
        float(np.float32(math.fsum(float(a) * float(b) for a, b in zip(row, query)))) for row in vectors
    ]
    rows = sorted(zip(scores, ids.tolist(), range(len(ids))), key=lambda row: (-row[0], row[1], row[2]))
    return rows[:k]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_equals_naive_float64_with_duplicates_and_ties(data, tmp_path_factory):
    dim = data.draw(st.integers(1, 9), label="dim")
    pool = data.draw(
        st.lists(st.lists(st.integers(-2, 2), min_size=dim, max_size=dim), min_size=1, max_size=6)
    )
    pool = np.array([row if any(row) else [1] * dim for row in pool], np.float64)
    rows = data.draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=120), label="rows")
    ids = np.array(
        data.draw(st.lists(st.sampled_from("abcd"), min_size=len(rows), max_size=len(rows))), np.bytes_
    )
    vectors = unit_rows(pool[rows], dim)
    queries = unit_rows(pool, dim)
    k = data.draw(st.integers(1, 130), label="k")
    shards = shards_of(
        tmp_path_factory.mktemp("s"), vectors, ids, data.draw(st.integers(1, 130), label="rows per shard")
    )
    for answer, query in zip(search(shards, queries, k), queries, strict=True):
        assert answer == naive(vectors, ids, query, k)


@pytest.mark.parametrize("k", [1, 10, 100, 5000])
def test_equals_naive_float64_on_near_ties(tmp_path, k):
    """Many rows closer to each other than float32 sums can tell: only the float64 order is right."""
    generator = np.random.default_rng(1)
    base = generator.normal(size=64)
    vectors = unit_rows(base + 1e-7 * generator.normal(size=(600, 64)), 64)
    vectors = np.concatenate([vectors, vectors[::-1], unit_rows(generator.normal(size=(600, 64)), 64)])
    ids = np.array([f"{number:032x}" for number in generator.permutation(len(vectors))], np.bytes_)
    queries = unit_rows(np.concatenate([base[None], generator.normal(size=(7, 64))]), 64)
    shards = shards_of(tmp_path, vectors, ids, 700)
    for answer, query in zip(search(shards, queries, k), queries, strict=True):
        assert answer == naive(vectors, ids, query, k)


def test_answers_do_not_depend_on_the_other_queries(tmp_path):
    generator = np.random.default_rng(2)
    vectors = unit_rows(generator.normal(size=(3000, 96)), 96)
    queries = unit_rows(generator.normal(size=(40, 96)), 96)  # FAISS changes its kernel at 20 queries
    ids = np.array([f"{number:08x}" for number in range(3000)], np.bytes_)
    shards = shards_of(tmp_path, vectors, ids, 3000)
    together = search(shards, queries, 25)
    assert together == [search(shards, query[None], 25)[0] for query in queries]


def test_merge_orders_by_score_then_domain_id_slot():
    def hit(score: float, domain: str, id_: str, slot: int) -> Hit:
        return Hit(score, domain, id_, slot, "")

    photo = [hit(0.9, "photo", "b", 4), hit(0.5, "photo", "a", 1), hit(0.5, "photo", "a", 2)]
    sketch = [hit(0.9, "art", "z", 0), hit(0.5, "art", "c", 9)]
    assert merge([photo, sketch], 4) == [sketch[0], photo[0], sketch[1], photo[1]]
    assert merge([photo, sketch], 99) == [sketch[0], photo[0], sketch[1], photo[1], photo[2]]
    assert merge([], 3) == []


@pytest.mark.parametrize(
    "queries",
    [
        np.ones((1, 3)),
        np.ones(4),
        np.zeros((1, 4)),
        np.array([[1, 2, 3, np.nan]]),
        np.array([[1, 2, 3, np.inf]]),
        np.full((1, 4), 1e200),
    ],
)
def test_refuses_queries_without_a_direction(queries):
    with pytest.raises(UserError, match="query vector"):
        unit_rows(queries, 4)


def test_scale_of_a_query_does_not_matter():
    query = np.array([[3.0, 4.0]])
    assert np.array_equal(unit_rows(query, 2), unit_rows(query * 1e-30, 2))
