"""Prototypes of a domain: the right number of them, and the same from shards as from the whole."""

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors import unit_rows
from ucdr_ray.neighbors import prototypes
from ucdr_ray.neighbors.centre import exact_sum, mean
from ucdr_ray.neighbors.prototypes import Prototypes, assign, clusters, drawn, elbow, knee
from ucdr_ray.neighbors.search import Rows


def blobs(count, rows, seed=0, dim=16, noise=0.05):
    """Unit rows around `count` directions at right angles, in turn."""
    draw = np.random.default_rng(seed)
    data = np.eye(dim)[np.arange(rows) % count] + noise * draw.normal(size=(rows, dim))
    return torch.nn.functional.normalize(torch.tensor(data, dtype=torch.float32), dim=1)


@pytest.mark.parametrize(
    ("inertia", "expected"),
    [
        ([100, 60, 10, 8, 6, 4, 2], 3),
        ([100, 5, 4, 3, 2, 1, 0], 2),
        ([100, 80, 60, 40, 4, 3, 2], 5),
        ([100, 99, 98, 20, 3, 2, 1], 5),  # begins flat
        ([70, 60, 50, 40, 30, 20, 10], 7),  # a straight line
        ([70, 69, 66, 60, 50, 35, 10], 7),  # bent the other way
        ([3, 3, 3, 3, 3, 3, 3], 7),
        ([0, 0, 0, 0, 0, 0, 0], 7),
    ],
)
def test_knee_of_a_curve(inertia, expected):
    assert knee([1, 2, 3, 4, 5, 6, 7], inertia) == expected


@pytest.mark.parametrize(("tried", "inertia"), [([1], [5.0]), ([1, 2], [9.0, 1.0])])
def test_too_short_a_curve_has_no_knee(tried, inertia):
    assert knee(tried, inertia) == tried[-1]


@pytest.mark.parametrize("count", [2, 3, 5, 8, 12])
def test_the_elbow_is_at_the_number_of_blobs(count):
    sample = blobs(count, 240)
    found = Prototypes.of(sample, seed=0)
    assert elbow(sample, seed=0) == count == len(found)
    own = assign(sample, found.vectors)
    assert len(own[:count].unique()) == count and torch.equal(own, own[torch.arange(240) % count])
    for cluster, vector in enumerate(found.vectors):
        torch.testing.assert_close(vector, sample[own == cluster].mean(0))
    torch.testing.assert_close(found.mean, sample.mean(0))


@pytest.mark.parametrize("seed", range(3))
def test_groups_anywhere_have_a_prototype_each(seed):
    """One attempt from random rows, or one of k-means++, takes two groups for one at some of these seeds."""
    draw, group = np.random.default_rng(seed), np.arange(700) % 7
    data = unit_rows(7, 128, seed).numpy()[group] + 0.08 * draw.normal(size=(700, 128))
    sample = torch.nn.functional.normalize(torch.tensor(data, dtype=torch.float32), dim=1)
    own = assign(sample, clusters(sample, 7, seed))
    assert len(own[:7].unique()) == 7 and torch.equal(own, own[torch.from_numpy(group)])


def test_the_elbow_is_told_by_some_rows_of_many(monkeypatch):
    monkeypatch.setattr(prototypes, "_COUNTED", 100)
    seen = []

    def k_means(rows, count, *rest, **options):
        seen.append(len(rows))
        return original(rows, count, *rest, **options)

    original = prototypes.k_means
    monkeypatch.setattr(prototypes, "k_means", k_means)
    # Sorted by blob: the first rows alone would know of one.
    sample = blobs(4, 2000)[(torch.arange(2000) % 4).argsort(stable=True)]
    assert elbow(sample, seed=0) == 4 and set(seen) == {100}


@pytest.mark.parametrize(("rows", "most", "expected"), [(19, 150, 1), (20, 150, 2), (200, 2, 2), (200, 1, 1)])
def test_few_rows_or_a_small_limit(rows, most, expected):
    assert elbow(blobs(5, rows), 0, most) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 6), st.integers(0, 10_000))
def test_assigned_to_the_nearest_by_euclidean_distance(rows, count, dim, seed):
    """Prototypes differ in length: the largest product is not enough."""
    vectors = unit_rows(rows, dim, seed)
    centres = unit_rows(count, dim, seed + 1) * torch.linspace(0.3, 1.5, count)[:, None]
    distance = (vectors.double()[:, None] - centres.double()).norm(dim=2)
    found = assign(vectors, centres)
    taken = distance.gather(1, found[:, None]).squeeze(1)
    torch.testing.assert_close(taken, distance.min(1).values, rtol=1e-5, atol=1e-6)


def test_of_equally_near_prototypes_the_first():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert assign(vectors, torch.tensor([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])).tolist() == [1, 0]


@pytest.mark.parametrize("limit", [150, 100_000])
def test_shards_make_the_prototypes_of_the_whole(monkeypatch, limit):
    """Whatever order a shard keeps its rows in, and however many of them are sampled."""
    monkeypatch.setattr(prototypes, "SAMPLED", limit)
    monkeypatch.setattr(prototypes, "_BLOCK", 64)
    vectors = blobs(5, 400, seed=3, noise=0.2)
    shards = [
        Rows(vectors[slots], slots)
        for slots in (some[torch.randperm(len(some))] for some in torch.arange(400).split(130))
    ]
    parts = [drawn(shard, 400, 7) for shard in shards]
    assert sum(map(len, parts)) == min(limit, 400) and all(len(part) for part in parts)
    total = sum(exact_sum(shard.vectors) for shard in shards)
    found, whole = Prototypes.fit(torch.cat(parts), mean(total, 400), 7), Prototypes.of(vectors, 7)
    assert torch.equal(found.vectors, whole.vectors) and torch.equal(found.mean, whole.mean)
    own = assign(vectors, whole.vectors)
    assert len(own.unique()) == len(whole) > 1
    for shard in shards:
        assert torch.equal(assign(shard.vectors, found.vectors), own[shard.slots])


def test_the_sample_is_of_all_the_domain_and_by_seed(monkeypatch):
    monkeypatch.setattr(prototypes, "SAMPLED", 100)
    rows = Rows.all(torch.arange(1000.0)[:, None])
    one, again, other = (drawn(rows, 1000, seed).view(-1) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert len(one.unique()) == 100 and torch.equal(one, one.sort().values)
    assert 400 < float(one.mean()) < 600


def test_the_same_seed_gives_the_same_prototypes_on_any_threads():
    vectors, before = unit_rows(600, 24, 0), faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(2)
        one = Prototypes.of(vectors, 5)
        assert faiss.omp_get_max_threads() == 2
        faiss.omp_set_num_threads(1)
        assert torch.equal(one.vectors, Prototypes.of(vectors, 5).vectors)
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(("distinct", "count"), [(1, 5), (3, 10), (3, 3), (4, 2)])
def test_no_cluster_is_empty(distinct, count):
    """Fewer places than clusters: those that nobody is nearest to are left out."""
    sample = torch.eye(8)[torch.arange(60) % distinct]
    centres = clusters(sample, count, 0)
    own = assign(sample, centres)
    assert len(own.unique()) == len(centres) == min(distinct, count)
    if count >= distinct:
        torch.testing.assert_close(centres[own], sample, rtol=0, atol=2e-3)


@pytest.mark.parametrize("rows", [1, 2, 19])
def test_a_small_domain_has_one_prototype_which_is_its_mean(rows):
    vectors = unit_rows(rows, 8, 0)
    found = Prototypes.of(vectors, 0)
    assert len(found) == 1
    torch.testing.assert_close(found.vectors[0], vectors.mean(0))


def test_one_dimension():
    vectors = torch.tensor([-1.0, -0.9, 0.1, 0.0, 0.9, 1.0] * 20)[:, None]
    found = Prototypes.of(vectors, 0)
    torch.testing.assert_close(found.vectors.view(-1).sort().values, torch.tensor([-0.95, 0.05, 0.95]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(bad):
    vectors = unit_rows(40, 8, 0)
    vectors[7, 3] = bad
    with pytest.raises(ValueError, match="must be finite"):
        Prototypes.of(vectors, 0)
    with pytest.raises(ValueError, match="must be finite"):
        Prototypes.fit(vectors, torch.zeros(8), 0)


def test_a_domain_without_rows_is_refused():
    with pytest.raises(ValueError, match="without rows"):
        Prototypes.of(torch.zeros(0, 8), 0)
