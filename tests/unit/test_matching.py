"""The unified structure against an enumeration of all matchings, and what must not change it."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.neighbors.matching import unify
from ucdr_ray.neighbors.prototypes import Prototypes, assign

COUNTS = st.integers(1, 5)
DIMS = st.integers(2, 5)  # on a line many matchings are equally short, whose order decides
SEEDS = st.integers(0, 2**31)


def two_domains(a, b, dim, seed):
    """Float64 prototypes, some of which have the like in the other domain but for its own place."""
    draw = np.random.default_rng(seed)
    means = draw.normal(size=(2, dim))
    one = draw.normal(size=(a, dim))
    two = draw.normal(size=(b, dim))
    like = draw.permutation(min(a, b))[: draw.integers(0, min(a, b) + 1)]
    two[like] = one[like] + draw.choice([0.05, 0.3, 0.8]) * draw.normal(size=(len(like), dim))
    two = two[draw.permutation(b)]
    return domain(one + means[0], means[0]), domain(two + means[1], means[1])


def domain(vectors, mean):
    return Prototypes(torch.as_tensor(vectors), torch.as_tensor(mean))


def naive(a, b):
    """Merged pairs (c, c') and the rows of P_A', as the paper writes them."""
    one = a.vectors.tolist()
    shift = (a.mean - b.mean).tolist()
    two = [[x + s for x, s in zip(row, shift)] for row in b.vectors.tolist()]

    def d(p, q):
        return sum((x - y) ** 2 for x, y in zip(p, q)) ** 0.5

    few = min(len(one), len(two))
    matchings = [
        list(zip(left, right))
        for left in permutations(range(len(one)), few)
        for right in permutations(range(len(two)), few)
        if list(left) == sorted(left)
    ]
    best = min(matchings, key=lambda pairs: sum(d(one[i], two[j]) for i, j in pairs))
    inside = [d(p, q) for rows in (one, two) for i, p in enumerate(rows) for q in rows[:i]]
    limit = min(inside, default=float("inf"))
    merged = [(i, j) for i, j in best if d(one[i], two[j]) < limit]
    rows = [row for i, row in enumerate(one) if i not in {i for i, _ in merged}]
    rows += [row for j, row in enumerate(two) if j not in {j for _, j in merged}]
    rows += [[(x + y) / 2 for x, y in zip(one[i], two[j])] for i, j in merged]
    return set(merged), rows


def pairs(unified):
    """Clusters of A and B that became the same row."""
    return set(map(tuple, (unified.place_a[:, None] == unified.place_b).nonzero().tolist()))


def same_structure(one, two, order_a=None, order_b=None, turn=None):
    """Whether `two` is `one` with its clusters in another order and its rows turned; that of its rows does not count.

    Every row is of a cluster, so that rows by cluster, and who shares one, are all there is.
    """
    order_a = torch.arange(len(one.place_a)) if order_a is None else order_a
    order_b = torch.arange(len(one.place_b)) if order_b is None else order_b
    turn = torch.eye(one.a.shape[1], dtype=one.a.dtype) if turn is None else turn
    assert len(two.a) == len(two.b) == len(one.a) == len(one.b)
    assert len(torch.cat([two.place_a, two.place_b]).unique()) == len(two.a)
    assert {(int(order_a[i]), int(order_b[j])) for i, j in pairs(two)} == pairs(one)
    for name in ("a", "b"):
        ours, theirs = getattr(one, name) @ turn, getattr(two, name)
        torch.testing.assert_close(theirs[two.place_a], ours[one.place_a[order_a]])
        torch.testing.assert_close(theirs[two.place_b], ours[one.place_b[order_b]])
    assert int(two.merged.sum()) == len(pairs(one))


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, DIMS, SEEDS)
def test_equals_the_enumeration_of_all_matchings(count_a, count_b, dim, seed):
    a, b = two_domains(min(count_a, 4), count_b, dim, seed)
    unified, (merged, rows) = unify(a, b), naive(a, b)
    assert pairs(unified) == merged
    assert len(unified.a) == len(rows) == len(a) + len(b) - len(merged)
    expected = torch.tensor(rows, dtype=torch.float64)
    distance = torch.cdist(unified.a, expected, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(distance.min(0).values.max()) < 1e-9 and float(distance.min(1).values.max()) < 1e-9
    torch.testing.assert_close(unified.b - unified.a, (b.mean - a.mean).expand_as(unified.a))
    both = np.intersect1d(unified.place_a, unified.place_b)
    assert unified.merged.nonzero().view(-1).tolist() == both.tolist()


def test_the_drawn_domains_merge_some_and_not_others():
    shares = [len(pairs(unify(*two_domains(4, 5, 3, seed)))) for seed in range(40)]
    assert {0, 1, 2, 3, 4} >= set(shares) >= {0, 1, 2, 3}


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, DIMS, SEEDS)
def test_the_same_from_either_domain(count_a, count_b, dim, seed):
    """P_A' of (A, B) is the other's structure of (B, A), in A's place: the same rows, pairs and maps."""
    a, b = two_domains(count_a, count_b, dim, seed)
    same_structure(unify(a, b), unify(b, a).swapped())


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, DIMS, SEEDS)
def test_the_order_of_prototypes_changes_nothing(count_a, count_b, dim, seed):
    a, b = two_domains(count_a, count_b, dim, seed)
    draw = torch.Generator().manual_seed(seed)
    order_a, order_b = torch.randperm(count_a, generator=draw), torch.randperm(count_b, generator=draw)
    shuffled = unify(Prototypes(a.vectors[order_a], a.mean), Prototypes(b.vectors[order_b], b.mean))
    same_structure(unify(a, b), shuffled, order_a, order_b)


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, DIMS, SEEDS)
def test_a_common_rotation_turns_the_structure(count_a, count_b, dim, seed):
    a, b = two_domains(count_a, count_b, dim, seed)
    turn = torch.linalg.qr(
        torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).Q
    turned = unify(Prototypes(a.vectors @ turn, a.mean @ turn), Prototypes(b.vectors @ turn, b.mean @ turn))
    same_structure(unify(a, b), turned, turn=turn)


def hand(*rows, mean=(0.0, 0.0)):
    return domain(torch.tensor(rows), torch.tensor(mean))


def test_by_hand():
    """B stands 10 to the right; its second prototype is near A's first, its others near nothing."""
    a = hand((0.0, 0.0), (4.0, 0.0))
    b = hand((10.0, 9.0), (11.0, 0.0), (20.0, 9.0), mean=(10.0, 0.0))
    unified = unify(a, b)
    assert unified.a.tolist() == [[0.5, 0.0], [4.0, 0.0], [0.0, 9.0], [10.0, 9.0]]
    assert unified.b.tolist() == [[10.5, 0.0], [14.0, 0.0], [10.0, 9.0], [20.0, 9.0]]
    assert unified.place_a.tolist() == [0, 1] and unified.place_b.tolist() == [2, 0, 3]
    assert unified.merged.tolist() == [True, False, False, False]


def test_matching_is_one_to_one_and_the_best_as_a_whole():
    """Both of B's are nearest to A's first. What the shortest pair (0.4) would leave is too long (5)."""
    assert pairs(unify(hand((0.0, 0.0), (3.0, 0.0)), hand((0.4, 0.0), (-2.0, 0.0)))) == {(0, 1)}
    assert pairs(unify(hand((0.0, 0.0), (2.0, 0.0)), hand((1.1, 0.0), (-1.0, 0.0)))) == {(0, 1), (1, 0)}


@pytest.mark.parametrize("swap", [False, True])
def test_the_smaller_of_both_domains_distances_is_the_limit(swap):
    """0.6 apart: less than inside A (2), more than inside B (0.5)."""
    a, b = hand((0.0, 0.0), (2.0, 0.0)), hand((0.6, 0.0), (9.0, 0.0), (9.0, 0.5))
    assert pairs(unify(b, a) if swap else unify(a, b)) == set()
    wider = hand((0.6, 0.0), (9.0, 0.0), (9.0, 0.7))
    assert pairs(unify(wider, a) if swap else unify(a, wider)) == {(0, 0)}


def test_a_pair_as_far_apart_as_the_limit_does_not_merge():
    a = hand((0.0, 0.0), (2.0, 0.0))
    assert pairs(unify(a, hand((0.0, 2.0)))) == set()
    assert pairs(unify(a, hand((0.0, 1.99)))) == {(0, 0)}


def test_all_merge():
    a = hand((0.0, 0.0), (4.0, 0.0), (0.0, 4.0))
    unified = unify(a, Prototypes(a.vectors + 7, a.mean + 7))
    assert torch.equal(unified.a, a.vectors) and torch.equal(unified.b, a.vectors + 7)
    assert bool(unified.merged.all()) and torch.equal(unified.place_a, unified.place_b)


def test_none_merges():
    a, b = hand((0.0, 0.0), (1.0, 0.0)), hand((5.0, 5.0), (6.0, 5.0), (7.0, 5.0))
    unified = unify(a, b)
    assert torch.equal(unified.a, torch.cat([a.vectors, b.vectors]))
    assert not unified.merged.any() and unified.place_b.tolist() == [2, 3, 4]


def test_single_prototypes():
    """One against many: their distances decide. One against one: the same place after translation."""
    many = hand((0.0, 0.0), (4.0, 0.0))
    assert pairs(unify(hand((1.0, 0.0)), many)) == {(0, 0)}
    assert pairs(unify(many, hand((0.0, 5.0)))) == set()
    one, other = torch.rand(1, 2), torch.rand(1, 2)
    unified = unify(Prototypes(one, one[0]), Prototypes(other, other[0]))
    assert torch.equal(unified.a, one) and torch.equal(unified.b, other) and pairs(unified) == {(0, 0)}


def test_prototypes_in_one_place_let_nothing_merge():
    unified = unify(hand((1.0, 0.0), (1.0, 0.0), (3.0, 0.0)), hand((1.0, 0.0), (3.0, 0.0)))
    assert len(unified.a) == 5 and not unified.merged.any()


def test_one_dimension():
    a, b = hand((0.0,), (10.0,), mean=(5.0,)), hand((0.3,), (10.2,), (50.0,), mean=(5.1,))
    unified = unify(a, b)
    assert pairs(unified) == {(0, 0), (1, 1)} and len(unified.a) == 3
    torch.testing.assert_close(unified.a, torch.tensor([[0.1], [10.05], [49.9]]))


def test_a_tie_is_settled_one_to_one():
    """Both of B's are as near to A's: one merges, the other stays, the same at every call."""
    a, b = hand((0.0, 0.0)), hand((1.0, 0.0), (-1.0, 0.0))
    unified = unify(a, b)
    assert len(pairs(unified)) == 1 and len(unified.a) == 2
    assert torch.equal(unified.a, unify(a, b).a)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="invalid"):
        unify(hand((0.0, 0.0), (1.0, 0.0)), hand((float("nan"), 0.0)))


def test_unmerged_prototypes_stay_as_they_are_to_the_bit():
    draw = torch.Generator().manual_seed(0)
    a, b = (Prototypes(torch.randn(9, 16, generator=draw), torch.randn(16, generator=draw)) for _ in range(2))
    unified = unify(a, b)
    alone_a, alone_b = ~unified.merged[unified.place_a], ~unified.merged[unified.place_b]
    assert unified.a.dtype == torch.float32 and bool(alone_a.any()) and bool(alone_b.any())
    assert torch.equal(unified.a[unified.place_a[alone_a]], a.vectors[alone_a])
    assert torch.equal(unified.b[unified.place_b[alone_b]], b.vectors[alone_b])


def test_domains_of_the_same_categories_become_one_structure():
    """From rows to structure: the same five groups, elsewhere and in another order."""
    draw = np.random.default_rng(0)
    rows = torch.tensor(
        np.eye(8)[np.arange(200) % 5] + 0.03 * draw.normal(size=(200, 8)), dtype=torch.float32
    )
    other = rows.flip(0) * 0.9 + 0.05
    a, b = Prototypes.of(rows, 0), Prototypes.of(other, 1)
    unified = unify(a, b)
    assert len(a) == len(b) == len(unified.a) == 5 and bool(unified.merged.all())
    mine = unified.place_a[assign(rows, a.vectors)]
    assert torch.equal(mine, unified.place_b[assign(other, b.vectors)].flip(0))
