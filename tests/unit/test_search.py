"""Search answers what a naive float64 search answers, in the documented order, whatever the shards."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.errors import UserError
from ucdr_ray.index.manifest import ShardEntry
from ucdr_ray.index.merge import Candidates, Hit, best, merge
from ucdr_ray.index.search import unit_rows
from ucdr_ray.index.shard import ExactShard, write_exact


def shards_of(folder: Path, vectors: np.ndarray, rows_per_shard: int) -> list[ExactShard]:
    shards = []
    for number, first in enumerate(range(0, len(vectors), rows_per_shard)):
        part = vectors[first : first + rows_per_shard]
        file = f"shards/photo-{number:05d}.faiss"
        (folder / "shards").mkdir(exist_ok=True)
        write_exact(folder / file, part.shape[1], [part])
        entry = ShardEntry.of(folder, file, domain="photo", kind="exact", rows=len(part), first_slot=first)
        shards.append(ExactShard(folder / file, entry, part.shape[1]))
    return shards


def search(shards: list[ExactShard], ids: np.ndarray, queries: np.ndarray, k: int) -> list[list[tuple]]:
    answers = []
    for parts in zip(*(shard.search(queries, k) for shard in shards), strict=True):
        top = best([Candidates(scores, slots, ids[slots]) for scores, slots in parts], k)
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
        tmp_path_factory.mktemp("s"), vectors, data.draw(st.integers(1, 130), label="rows per shard")
    )
    for answer, query in zip(search(shards, ids, queries, k), queries, strict=True):
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
    shards = shards_of(tmp_path, vectors, 700)
    for answer, query in zip(search(shards, ids, queries, k), queries, strict=True):
        assert answer == naive(vectors, ids, query, k)


def test_answers_do_not_depend_on_the_other_queries(tmp_path):
    generator = np.random.default_rng(2)
    vectors = unit_rows(generator.normal(size=(3000, 96)), 96)
    queries = unit_rows(generator.normal(size=(40, 96)), 96)  # FAISS changes its kernel at 20 queries
    ids = np.array([f"{number:08x}" for number in range(3000)], np.bytes_)
    shards = shards_of(tmp_path, vectors, 3000)
    together = search(shards, ids, queries, 25)
    assert together == [search(shards, ids, query[None], 25)[0] for query in queries]


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
