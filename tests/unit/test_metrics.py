"""The metrics against a naive float64 reading of their definitions, with ties, on small random inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.evaluation.metrics import all_metrics
from ucdr_ray.evaluation.ranking import rank_relevant

KS = (1, 2, 3, 5, 8, 50)


def naive(queries, query_labels, gallery, gallery_labels, ks):
    """One query, one gallery image, one k at a time; the sort is Python's own on (score descending, row ascending)."""
    precisions = {k: [] for k in ks}
    capped = {k: [0, 0] for k in ks}
    maps = {k: [] for k in [*ks, "all"]}
    for query, label in zip(queries.tolist(), query_labels, strict=True):
        scores = [sum(a * b for a, b in zip(query, row, strict=True)) for row in gallery.tolist()]
        order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
        correct = [label >= 0 and gallery_labels[row] == label for row in order]
        relevant = sum(correct)
        for k in [*ks, "all"]:
            top = correct if k == "all" else correct[:k]
            bound = relevant if k == "all" else min(k, relevant)
            if k != "all":
                precisions[k].append(sum(top) / k)
                capped[k][0] += sum(correct[:bound])
                capped[k][1] += bound
            if relevant:
                ap = sum(sum(top[: i + 1]) / (i + 1) for i in range(len(top)) if top[i])
                maps[k].append(ap / bound)
    values = {"map@all": np.mean(maps["all"]) if maps["all"] else None}
    for k in ks:
        values[f"precision@{k}"] = np.mean(precisions[k]) if precisions[k] else None
        values[f"capped_precision@{k}"] = capped[k][0] / capped[k][1] if capped[k][1] else None
        values[f"map@{k}"] = np.mean(maps[k]) if maps[k] else None
    return values


@st.composite
def problems(draw):
    """Vectors of few small integers: every score is exact in float32, and most of them tie."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, rows = draw(st.integers(0, 6)), draw(st.integers(1, 80))
    dim, spread = draw(st.integers(1, 4)), draw(st.integers(0, 40))
    first_label = draw(st.sampled_from([-1, 0]))
    return (
        rng.integers(-spread, spread + 1, (queries, dim)).astype(np.float32),
        rng.integers(0, 5, queries),
        rng.integers(-spread, spread + 1, (rows, dim)).astype(np.float32),
        rng.integers(first_label, 4, rows),
    )


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


@settings(max_examples=300, deadline=None)
@given(problems())
def test_equal_to_the_definitions_on_small_inputs_with_ties(problem):
    assert_equal(all_metrics(rank_relevant(*problem, KS)), naive(*problem, KS))


def test_a_worked_example():
    """Ranks 1 and 4 of five, R_q = 2: by hand."""
    gallery = np.array([[5.0], [4.0], [3.0], [2.0], [1.0]], np.float32)
    summary = rank_relevant(
        np.ones((1, 1), np.float32), np.array([7]), gallery, np.array([7, 1, 1, 7, 1]), (1, 2, 10)
    )
    assert all_metrics(summary) == {
        "map@all": (1 / 1 + 2 / 4) / 2,
        "precision@1": 1.0,
        "precision@2": 0.5,
        "precision@10": 0.2,  # k beyond the gallery: what is missing is wrong
        "capped_precision@1": 1.0,
        "capped_precision@2": 0.5,
        "capped_precision@10": 0.5,  # the top min(10, R_q) = 2 hold one of two
        "map@1": 1.0,
        "map@2": 0.5,
        "map@10": (1 / 1 + 2 / 4) / 2,
    }


def test_every_score_equal_ranks_by_row():
    gallery = np.ones((100, 3), np.float32)
    labels = np.array([0] * 99 + [1])
    summary = rank_relevant(np.ones((1, 3), np.float32), np.array([1]), gallery, labels, (1,))
    assert all_metrics(summary)["map@all"] == 0.01


def vectors(rows, seed, dim=24, classes=7):
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True), rng.integers(0, classes, rows)


@pytest.mark.parametrize("doubles", [0, 50, 400])
def test_the_size_of_a_block_changes_nothing(doubles):
    """Bit for bit, also with identical vectors under different labels, few or many, whose order is the tie rule's."""
    queries, query_labels = vectors(333, 1)
    gallery, labels = vectors(1001, 2)
    gallery[500 : 500 + doubles] = gallery[:doubles]
    whole = rank_relevant(queries, query_labels, gallery, labels, KS)
    for size in (1, 200_000, 700_001):
        blocked = rank_relevant(queries, query_labels, gallery, labels, KS, block_bytes=size)
        for part in ("relevant", "average_precision", "hits", "capped_hits", "precision_sum"):
            assert np.array_equal(getattr(blocked, part), getattr(whole, part)), part


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, -1.0, 0.0]), st.integers(2, 90))
def test_scores_one_float_apart_are_told_apart(seed, around, rows):
    """Neighbouring floats on both sides of a value, each several times; around 0 they are denormal."""
    rng = np.random.default_rng(seed)
    floats = [np.float32(around)]
    for _ in range(6):
        floats = [np.nextafter(floats[0], np.float32(-9)), *floats, np.nextafter(floats[-1], np.float32(9))]
    gallery = rng.choice(np.array([*floats, np.float32(-0.0)]), (rows, 1))
    labels, queries = rng.integers(-1, 2, rows), np.array([[1.0], [-1.0], [1.0]], np.float32)
    problem = queries, np.array([0, 0, 1]), gallery, labels
    assert_equal(all_metrics(rank_relevant(*problem, KS)), naive(*problem, KS))


def test_identical_vectors_tie_wherever_they_stand():
    """A double of a relevant image counts as better only where its row is lower."""
    queries, _ = vectors(40, 3)
    single, _ = vectors(1, 4)
    filler, _ = vectors(997, 5)
    for doubles_first in (True, False):
        block = np.repeat(single, 10, axis=0)
        gallery = np.concatenate([block, filler] if doubles_first else [filler, block])
        own = 0 if doubles_first else 997
        labels = np.zeros(1007, np.int64)
        labels[own] = 1  # the first of the ten doubles
        first = rank_relevant(queries, np.ones(40, np.int64), gallery, labels, (1,)).average_precision
        labels[own], labels[own + 9] = 0, 1  # the last
        last = rank_relevant(queries, np.ones(40, np.int64), gallery, labels, (1,)).average_precision
        np.testing.assert_allclose(1 / last, 1 / first + 9)


def test_vectors_that_are_not_finite_are_refused():
    queries, labels = vectors(4, 6)
    gallery = queries.copy()
    gallery[2, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        rank_relevant(queries, labels, gallery, labels, KS)
