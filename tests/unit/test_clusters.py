"""Approximate search: exact where nothing is left out, honest about what it leaves out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors import unit_rows
from ucdr_ray.neighbors import approximate, recall, sparse
from ucdr_ray.neighbors.approximate import Clustered, approximate_graphs, compared
from ucdr_ray.neighbors.clusters import Clusters, Sample, near
from ucdr_ray.neighbors.mutual import neighbour_graphs
from ucdr_ray.neighbors.nearest import Nearest, slots_of
from ucdr_ray.neighbors.order import by_slot
from ucdr_ray.neighbors.recall import Here, mutual_recall, nearer
from ucdr_ray.neighbors.search import Rows, search
from ucdr_ray.neighbors.sparse import Grouped, search_near


def clustered_rows(rows, dim, seed, around=40):
    """Rows around a few centres, as features of images lie."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(around, dim))
    data = centres[draw.integers(0, around, rows)] + 0.5 * draw.normal(size=(rows, dim))
    return torch.nn.functional.normalize(torch.tensor(data, dtype=torch.float32), dim=1)


def exact_lists(a, b, k):
    found = Nearest(len(a), k)
    search(Rows.all(a), found, None if b is None else Rows.all(b))
    return found.codes()


def approximately(a, b, k, seed=0):
    return approximate_graphs(
        Clustered.of(a, seed), None if b is None else Clustered.of(b, seed + 1), k, seed=seed
    )


def some_near(a, b, seed, inside):
    draw = torch.rand(a, b, generator=torch.Generator().manual_seed(seed)) < 0.5
    return draw | draw.T if inside else draw


def naive_pairs(there, back):
    """Mutual pairs of lists of slots."""
    sets = [set(row.tolist()) - {-1} for row in back]
    return {(i, j) for i, row in enumerate(there.tolist()) for j in row if j >= 0 and i in sets[j]}


def as_pairs(graph):
    row = torch.repeat_interleave(torch.arange(len(graph.indptr) - 1), graph.degrees())
    return set(zip(row.tolist(), graph.indices.tolist()))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(1, 90),
    st.integers(1, 9),
    st.integers(0, 10_000),
    st.booleans(),
    st.booleans(),
)
def test_with_all_clusters_near_the_lists_are_the_exact_ones(rows, keys, k, clusters, seed, inside, ties):
    a, b = unit_rows(rows, 24, seed), unit_rows(keys, 24, seed + 1)
    if ties:
        a, b = a[torch.arange(rows) % 5 % rows], b[torch.arange(keys) % 7 % keys]
    draw = torch.Generator().manual_seed(seed)
    one = Grouped.of(Rows.all(a), torch.randint(clusters, (rows,), generator=draw), clusters)
    two = (
        one if inside else Grouped.of(Rows.all(b), torch.randint(clusters, (keys,), generator=draw), clusters)
    )
    found = Nearest(rows, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "_ROWS", 16)
        patch.setattr(sparse, "_COLUMNS", 48)
        search_near(one, found, two, torch.ones(clusters, clusters, dtype=torch.bool), inside)
    assert torch.equal(by_slot(found.codes(), one.rows), exact_lists(a, None if inside else b, k))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 120), st.integers(1, 20), st.integers(1, 9), st.integers(0, 10_000), st.booleans())
def test_only_near_clusters_are_searched_and_never_the_row_itself(rows, k, clusters, seed, inside):
    a = unit_rows(rows, 8, seed)
    b = a if inside else unit_rows(rows + 5, 8, seed + 1)
    one = torch.randint(clusters, (rows,), generator=torch.Generator().manual_seed(seed))
    two = one if inside else torch.randint(clusters, (len(b),), generator=torch.Generator().manual_seed(seed))
    wanted = some_near(clusters, clusters, seed, inside)
    grouped, others = Grouped.of(Rows.all(a), one, clusters), Grouped.of(Rows.all(b), two, clusters)
    found = Nearest(rows, k)
    search_near(grouped, found, others, wanted, inside)
    score = (a @ b.T).masked_fill(~wanted[one][:, two], -9)
    if inside:
        score.fill_diagonal_(-9)
    for row, slots in zip(score, slots_of(by_slot(found.codes(), grouped.rows)).tolist()):
        expected = [j for j in row.argsort(descending=True)[:k].tolist() if row[j] > -9]
        assert [j for j in slots if j >= 0] == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 150), st.integers(1, 40), st.integers(0, 10_000), st.booleans())
def test_pieces_of_domains_find_what_the_whole_finds(rows, k, seed, inside):
    """As shards do: each holds some of the rows, in any order of slots, and is offered the others' in turn."""
    a = unit_rows(rows, 16, seed)
    b = a if inside else unit_rows(rows, 16, seed + 1)
    clusters = Clusters.fit(Sample.of(Rows.all(a), rows, seed), seed)
    others = clusters if inside else Clusters.fit(Sample.of(Rows.all(b), rows, seed), seed)
    wanted = some_near(len(clusters), len(others), seed, inside)

    def lists(cut_a, cut_b):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        codes = torch.empty(rows, k, dtype=torch.int64)
        for mine in order.tensor_split([cut_a]):
            piece = Grouped.of(Rows(a[mine], mine), clusters.assign(a[mine]), len(clusters))
            found = Nearest(len(mine), k)
            for theirs in order.flip(0).tensor_split([cut_b]):
                part = Grouped.of(Rows(b[theirs], theirs), others.assign(b[theirs]), len(others))
                search_near(piece, found, part, wanted, inside)
            codes[piece.rows.slots] = found.codes()
        return codes

    assert torch.equal(lists(rows, rows), lists(rows // 3, rows // 2))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 150), st.integers(1, 20), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_measured_recall_equals_the_naive_one(rows, k, seed, inside, ties):
    a = unit_rows(rows, 8, seed)
    b = None if inside else unit_rows(rows // 2 + 1, 8, seed + 1)
    if ties:
        a = a[torch.arange(rows) % 5 % rows]
    clusters = 6
    one = torch.randint(clusters, (rows,), generator=torch.Generator().manual_seed(seed))
    grouped = Grouped.of(Rows.all(a), one, clusters)
    wanted = some_near(clusters, clusters, seed, inside)
    others = grouped
    if b is not None:
        others = Grouped.of(Rows.all(b), torch.arange(len(b)) % clusters, clusters)
    there = approximate._lists(grouped, others, wanted, k, inside)
    back = None if b is None else approximate._lists(others, grouped, wanted.T, k, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall, "_SAMPLED", 10**9)
        patch.setattr(recall, "_CHECKED", 10**9)
        measured = mutual_recall(Here(a, there), None if b is None else Here(b, back), k, seed)
    exact_there = slots_of(exact_lists(a, b, k))
    exact = naive_pairs(exact_there, exact_there if b is None else slots_of(exact_lists(b, a, k)))
    ours = naive_pairs(slots_of(there), slots_of(there if back is None else back))
    assert measured.pairs == len(exact)
    if exact:
        assert measured.share == pytest.approx(len(exact & ours) / len(exact))
    else:
        assert np.isnan(measured.share)


def test_counts_of_parts_add_up():
    rows, keys = unit_rows(90, 8, 0), unit_rows(7, 8, 1)
    slot = torch.arange(7) * 5
    score = (keys * rows[slot]).sum(1)
    whole = nearer(keys, score, slot, None, Rows.all(rows))
    parts = [nearer(keys, score, slot, None, Rows(rows[p], p)) for p in torch.arange(90).split(37)]
    assert torch.equal(whole, sum(parts)) and 0 < int(whole.max()) < 90


@pytest.mark.parametrize("across", [False, True])
def test_most_mutual_neighbours_are_found_with_a_fraction_of_the_work(across):
    a = clustered_rows(6000, 32, 0)
    b = clustered_rows(4000, 32, 1) if across else None
    there, back, quality = approximately(a, b, 20)
    exact = as_pairs(neighbour_graphs(a, b, 20)[0])
    true = len(exact & as_pairs(there)) / len(exact)
    assert true > 0.95 and quality.compared < 0.15
    assert quality.recall.share == pytest.approx(true, abs=0.02) and quality.recall.pairs > 1000
    assert as_pairs(back) == {(j, i) for i, j in as_pairs(there)}


def test_neighbours_without_places_are_searched_exactly():
    """Random directions in many dimensions: a row's neighbours are everywhere."""
    a, b = unit_rows(900, 128, 0), unit_rows(700, 128, 1)
    for other in (None, b):
        found, exact = approximately(a, other, 10), neighbour_graphs(a, other, 10)
        assert found[2].compared == 1 and found[2].recall.share == 1
        for one, two in zip(found, exact):
            assert torch.equal(one.indptr, two.indptr) and torch.equal(one.indices, two.indices)


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("others", [None, 0, 1, 3])
def test_tiny_domains(rows, others):
    a = unit_rows(rows, 8, 0)
    b = None if others is None else unit_rows(others, 8, 1)
    for one, two in zip(approximately(a, b, 3)[:2], neighbour_graphs(a, b, 3)):
        assert len(one.indptr) == len(two.indptr) and as_pairs(one) <= as_pairs(two)


def test_the_same_seed_gives_the_same_graph():
    a = clustered_rows(3000, 16, 0)
    one, two, other = (approximately(a, None, 10, seed) for seed in (3, 3, 4))
    assert torch.equal(one[0].indices, two[0].indices) and one[2] == two[2]
    assert one[2].compared != other[2].compared


def test_samples_of_shards_make_that_of_the_domain():
    """Whatever order a shard keeps its rows in."""
    a = clustered_rows(5000, 16, 0)
    cut = [slots[torch.randperm(len(slots))] for slots in torch.arange(5000).split(1300)]
    joined = Sample.joined([Sample.of(Rows(a[slots], slots), 5000, 3) for slots in cut])
    whole = Sample.of(Rows.all(a), 5000, 3)
    assert torch.equal(joined.trained, whole.trained) and torch.equal(joined.held, whole.held)
    both = torch.cat([whole.trained, whole.held])
    assert len(both.unique(dim=0)) == len(both) > 2000
    clusters = Clusters.fit(joined, 0)
    sizes = torch.bincount(clusters.assign(a), minlength=len(clusters))
    assert compared(sizes, sizes, near(clusters, joined, clusters, None, 10)) < 0.2


def test_a_row_is_in_the_same_cluster_among_any_others():
    a = clustered_rows(700, 16, 0)
    clusters = Clusters.fit(Sample.of(Rows.all(a), 700, 0), 0)
    whole = clusters.assign(a)
    assert torch.equal(whole, torch.cat([clusters.assign(part) for part in a.split(33)]))
    assert torch.equal(whole, (a.double() @ clusters.centroids.double().T).argmax(1))


def test_vectors_that_are_no_numbers_are_refused():
    a = unit_rows(40, 8, 0)
    a[7, 3] = float("inf")
    with pytest.raises(ValueError, match="must be finite"):
        approximately(a, None, 5)
