"""Sparsity by k: against full matrices in float64, and against what a training's memory finds."""

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.evaluation.sparsity_plot import sparsity_plot
from ucdr_ray.images import decode
from ucdr_ray.neighbors import search as searching
from ucdr_ray.neighbors import sparsity as module
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood
from ucdr_ray.neighbors.mutual import neighbour_graphs
from ucdr_ray.neighbors.sparsity import BINS, comparisons, sparsity

EDGES = [0, 1, 2, 3, 6, 11, 21, 51, 101, 201, 501, np.inf]


def whole_rows(rows, seed):
    """Small whole numbers: their products are exact however they are summed, and often equal."""
    draw = np.random.default_rng(seed).integers(-9, 10, (rows, 3))
    return torch.tensor(draw, dtype=torch.float32)


def unit_rows(rows, seed, dim=24):
    data = np.random.default_rng(seed).normal(size=(rows, dim)) + 0.3
    return torch.nn.functional.normalize(torch.tensor(data, dtype=torch.float32), dim=1)


def naive(a, b, k):
    """Degrees (N,) of a's rows, mutual and named, by the full matrix of scores, with the smaller row number first."""
    own = a is b
    score = a.astype(np.float64) @ b.astype(np.float64).T
    if own:
        np.fill_diagonal(score, -np.inf)

    def chosen(score):
        near = np.zeros(score.shape, dtype=bool)
        order = np.argsort(-score, axis=1, kind="stable")[:, :k]
        np.put_along_axis(near, order, True, axis=1)
        return near & np.isfinite(score)

    named = chosen(score.T).T
    return (chosen(score) & named).sum(1), named.sum(1)


def assert_degrees(found, degree):
    assert found.share == pytest.approx((degree > 0).mean())
    assert found.mean == pytest.approx(degree.mean())
    assert found.largest == degree.max()
    assert found.histogram == tuple(np.histogram(degree, EDGES)[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.lists(st.integers(1, 45), min_size=1, max_size=4, unique=True),
    st.integers(0, 10_000),
)
def test_every_pair_and_k_is_what_the_full_matrix_says(sizes, ks, seed):
    domains = [(f"d{i}", whole_rows(rows, seed + i)) for i, rows in enumerate(sizes)]
    rows = dict(domains)
    found = sparsity(domains, ks, centre=False)
    assert [(pair.domain, pair.other) for pair in found] == [(a, b) for a in rows for b in rows]
    for pair in found:
        assert pair.rows == len(rows[pair.domain]) and list(pair.mutual) == list(pair.named) == ks
        a = rows[pair.domain].numpy()
        b = a if pair.domain == pair.other else rows[pair.other].numpy()
        for k in ks:
            mutual, named = naive(a, b, k)
            assert_degrees(pair.mutual[k], mutual)
            assert_degrees(pair.named[k], named)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10_000), st.booleans())
def test_shares_grow_with_k_and_no_row_is_lost(rows, others, seed, centre):
    ks = [1, 2, 5, 20, 70]
    for pair in sparsity([("a", unit_rows(rows, seed)), ("b", unit_rows(others, seed + 1))], ks, centre):
        for by_k in (pair.mutual, pair.named):
            degrees = [by_k[k] for k in ks]
            assert all(sum(d.histogram) == pair.rows and len(d.histogram) == len(BINS) for d in degrees)
            for less, more in pairwise(degrees):
                assert less.share <= more.share and less.mean <= more.mean
        for k in ks:
            assert pair.mutual[k].share <= pair.named[k].share
            assert pair.mutual[k].mean <= pair.named[k].mean


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 10_000), st.sampled_from([32, 3072]))
def test_one_search_at_the_largest_k_gives_what_a_search_at_each_k_gives(rows, others, seed, size):
    """Also where a domain is searched in several pieces."""
    a, b, ks = unit_rows(rows, seed), unit_rows(others, seed + 1), [1, 3, 8, 40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "side", lambda device: size)
        patch.setattr(module, "side", lambda device: size // 8)
        done = []
        found = {(p.domain, p.other): p for p in sparsity([("a", a), ("b", b)], ks, False, done.append)}
    assert sum(done) == comparisons([rows, others])
    for k in ks:
        there, back = neighbour_graphs(a, b, k)
        inside, _ = neighbour_graphs(a, None, k)
        for pair, graph in ((("a", "b"), there), (("b", "a"), back), (("a", "a"), inside)):
            assert_degrees(found[pair].mutual[k], graph.degrees().numpy())


@pytest.mark.parametrize("centre", [True, False])
def test_it_tells_what_a_trainings_memory_finds(centre):
    sizes = {"one": 1, "photo": 90, "sketch": 70}
    memory = LocalMemory(list(sizes.items()), 24)
    for index, rows in enumerate(sizes.values()):
        memory.push(torch.full((rows,), index), torch.arange(rows), unit_rows(rows, index))
    report = memory.rebuild(Neighbourhood(4, 9, centre=centre))
    banks = [(name, bank.keys) for name, bank in zip(memory.names, memory.banks)]
    for pair in sparsity(banks, [4, 9], centre):
        degrees = pair.mutual[4 if pair.domain == pair.other else 9]
        assert degrees.share == report[f"share/{pair.domain}->{pair.other}"]
        assert degrees.mean == report[f"degree/{pair.domain}->{pair.other}"]


def test_centring_undoes_what_sets_domains_apart():
    """A shift of its own for each domain makes hubs; without it every row finds its twin."""
    rows = unit_rows(80, 0)
    shifts = 3 * unit_rows(2, 1)
    apart = [(name, torch.nn.functional.normalize(rows + shift, dim=1)) for name, shift in zip("ab", shifts)]
    before, after = (
        {(p.domain, p.other): p for p in sparsity(apart, [1], centre)} for centre in (False, True)
    )
    assert before["a", "b"].mutual[1].share < 0.9 < after["a", "b"].mutual[1].share
    assert before["a", "a"] == after["a", "a"]  # inside a domain, nothing is centred


def test_vectors_that_are_no_numbers_are_refused():
    rows = unit_rows(9, 0)
    rows[3, 1] = float("nan")
    with pytest.raises(ValueError, match="must be finite"):
        sparsity([("a", unit_rows(5, 1)), ("b", rows)], [2], centre=False)


def test_a_result_is_json():
    (pair,) = sparsity([("a", unit_rows(9, 0))], [2], centre=False)
    made = json.loads(json.dumps(asdict(pair)))
    assert made["mutual"]["2"]["histogram"] == list(pair.mutual[2].histogram)


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_the_picture_has_room_for_every_pair(count):
    domains = [(f"_do$main$ {i}", unit_rows(6 + i, i)) for i in range(count)]
    found = sparsity(domains, [1, 4], centre=True)
    heights = [decode(sparsity_plot(found[:n], 4, [4], "a $title$")).height for n in (1, len(found))]
    assert heights[0] + 20 * (len(found) - 1) <= heights[1]
