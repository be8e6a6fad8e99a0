import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors import unit_rows
from ucdr_ray.errors import UserError
from ucdr_ray.neighbors import order
from ucdr_ray.neighbors import search as searching
from ucdr_ray.neighbors.bank import Bank
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood
from ucdr_ray.neighbors.mutual import neighbour_graphs
from ucdr_ray.neighbors.nearest import Nearest, scores_of, slots_of
from ucdr_ray.neighbors.search import Rows, search
from ucdr_ray.neighbors.shard import Shard


def naive_top_k(score, k, own=False):
    lists = []
    for i, row in enumerate(score):
        order = sorted(
            (j for j in range(len(row)) if not (own and i == j)), key=lambda j: (-float(row[j]), j)
        )
        lists.append(order[:k])
    return lists


def top_k(queries, keys, k):
    found = Nearest(len(queries), k)
    search(Rows.all(queries), found, Rows.all(keys))
    return slots_of(found.codes())[:, : len(keys)]


def as_sets(graph):
    return [
        set(graph.indices[a:b].tolist()) for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 15), st.integers(0, 10_000), st.booleans())
def test_top_k_with_ties_equals_full_sort(rows, keys, k, seed, ties):
    """Ties among small whole numbers, whose products are exact however they are summed."""
    draw = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randint(-2, 3, (n, 3), generator=draw).float() if ties else unit_rows(n, 3, seed + n)
        for n in (rows, keys)
    )
    assert top_k(a, b, k).tolist() == naive_top_k(a.double() @ b.double().T, k)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 14), st.integers(0, 10_000))
def test_mutual_neighbours_across_domains(rows, keys, k, seed):
    a, b = unit_rows(rows, 4, seed), unit_rows(keys, 4, seed + 1)
    score = a @ b.T
    there, back = naive_top_k(score, k), naive_top_k(score.T, k)
    expected = [{j for j in there[i] if i in back[j]} for i in range(rows)]
    forward, backward = neighbour_graphs(a, b, k)
    assert as_sets(forward) == expected
    assert as_sets(backward) == [{i for i in range(rows) if j in expected[i]} for j in range(keys)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 10_000))
def test_mutual_neighbours_inside_a_domain_leave_self_out(rows, k, seed):
    a = unit_rows(rows, 4, seed)
    there = naive_top_k(a @ a.T, k, own=True)
    graph, _ = neighbour_graphs(a, None, k)
    assert as_sets(graph) == [{j for j in there[i] if i in there[j]} for i in range(rows)]


def test_without_mutual_filter_every_row_keeps_its_k():
    a, b = unit_rows(9, 4, 0), unit_rows(7, 4, 1)
    forward, backward = neighbour_graphs(a, b, 3, mutual=False)
    assert [sorted(s) for s in as_sets(forward)] == [sorted(s) for s in naive_top_k(a @ b.T, 3)]
    assert [sorted(s) for s in as_sets(backward)] == [sorted(s) for s in naive_top_k(b @ a.T, 3)]
    assert forward.share() == 1 and forward.mean_degree() == 3


@pytest.mark.parametrize("rows", [1, 3, 15])
def test_equal_keys_tie_for_few_rows_too(rows):
    """Every key stands twice, 1,013 slots apart: both have the same score, and the first comes before the second."""
    keys = unit_rows(1013, 64, 0).repeat(2, 1)
    for seed in range(5):
        queries, found = unit_rows(rows, 64, seed + 1), Nearest(rows, 2026)
        search(Rows.all(queries), found, Rows.all(keys))
        for codes in found.codes():
            listed = list(zip((-scores_of(codes)).tolist(), slots_of(codes).tolist(), strict=True))
            assert listed == sorted(listed)
            score = {slot: negative for negative, slot in listed}
            assert all(score[slot] == score[slot + 1013] for slot in range(1013))
        assert torch.equal(top_k(queries, keys, 1000), slots_of(found.codes())[:, :1000])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 90), st.integers(0, 10_000), st.booleans())
def test_tiles_of_any_size_find_the_same(rows, keys, k, seed, ties):
    """Tiles, and the pieces in which rows are searched, leave no mark: both ways, the same codes bit for bit."""
    a, b = unit_rows(rows, 24, seed), unit_rows(keys, 24, seed + 1)
    if ties:
        a, b = a[torch.arange(rows) % 5 % rows], b[torch.arange(keys) % 7 % keys]

    def found(size, cut):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(searching, "side", lambda device: size)
            there, back = Nearest(rows, k), Nearest(keys, k)
            for part in (slice(0, cut), slice(cut, None)):
                piece = Nearest(len(b[part]), k)
                search(Rows(a, torch.arange(rows)), there, Rows(b[part], torch.arange(keys)[part]), piece)
                back._codes[part] = piece._codes
            return there.codes(), back.codes()

    for size, cut in ((32, keys // 3), (64, 0)):
        for whole, parts in zip(found(3072, keys), found(size, cut), strict=True):
            assert torch.equal(whole, parts)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 90), st.sampled_from([32, 96, 3072]), st.integers(0, 10_000))
def test_a_search_inside_finds_what_a_full_sort_finds(rows, k, size, seed):
    a = unit_rows(rows, 16, seed)
    score = (a.double() @ a.double().T).fill_diagonal_(-9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "side", lambda device: size)
        found = Nearest(rows, k)
        search(Rows.all(a), found)
    codes = found.codes()[:, : rows - 1]
    order = score.sort(dim=1, descending=True)
    expected = order.values[:, : min(k, rows - 1)]
    torch.testing.assert_close(scores_of(codes).double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(score.gather(1, slots_of(codes)), expected, rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 20), st.integers(0, 10_000), st.booleans())
def test_graphs_do_not_depend_on_the_order_of_the_search(rows, keys, k, seed, inside):
    a, b = unit_rows(rows, 16, seed), None if inside else unit_rows(keys, 16, seed + 1)
    whole = neighbour_graphs(a, b, k)
    with pytest.MonkeyPatch.context() as patch:
        for module in (searching, order):
            patch.setattr(module, "side", lambda device: 32)
        assert rows <= 32 or not torch.equal(order.alike(Rows.all(a)).slots, torch.arange(rows))
        sorted_ = neighbour_graphs(a, b, k)
    for one, two in zip(whole, sorted_, strict=True):
        assert torch.equal(one.indptr, two.indptr) and torch.equal(one.indices, two.indices)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_shards_in_another_order_find_the_same_edges(count, seed, mutual, centre):
    """As `cluster.neighbour_search` leads them, without Ray."""
    sizes, wanted = [130, 90], Neighbourhood(6, 5, mutual, centre)
    keys = [unit_rows(n, 16, seed + n) for n in sizes]
    local = LocalMemory([("a", sizes[0]), ("b", sizes[1])], 16)
    shards = [Shard(sizes, 16, index, count) for index in range(count)]
    for domain, rows in enumerate(keys):
        local.push(torch.full((len(rows),), domain), torch.arange(len(rows)), rows)
        for shard in shards:
            first, stop = shard.spans[domain]
            own = torch.arange(first, stop)
            shard.push(torch.full_like(own, domain), own, rows[first:stop])
    local.rebuild(wanted)
    with pytest.MonkeyPatch.context() as patch:
        for module in (searching, order):
            patch.setattr(module, "side", lambda device: 32)
        totals = [sum(shard.total(d) for shard in shards) for d in range(2)] if centre else []
        for shard in shards:
            shard.begin(wanted, totals)
        for a, b in [(0, 0), (1, 1), (0, 1)]:
            for i, j in searching.pairs_once(count, count, a == b):
                theirs = None if i == j else shards[j].searched(b, a != b)
                codes = shards[i].search(a, b, j, theirs)
                if codes is not None:
                    shards[j].merge(b, a, codes)
        for a, b in [(0, 0), (1, 1), (0, 1), (1, 0)]:
            named = [shard.named(a, b) for shard in shards]
            for to, shard in enumerate(shards):
                shard.link(a, b, mutual, *(row[to] for row in named))
            graph = local.graphs[a, b]
            edges = (
                torch.repeat_interleave(torch.arange(sizes[a]), graph.degrees()) * sizes[b] + graph.indices
            )
            assert torch.equal(torch.cat([shard.graphs[a, b] for shard in shards]).sort().values, edges)


def test_vectors_that_are_no_numbers_are_refused():
    a = unit_rows(40, 8, 0)
    a[7, 3] = float("nan")
    with pytest.raises(ValueError, match="must be finite"):
        neighbour_graphs(a, None, 5)


def test_edges_of_repeated_rows():
    graph, _ = neighbour_graphs(unit_rows(10, 4, 0), unit_rows(12, 4, 1), 4)
    rows = torch.tensor([3, 3, 0])
    position, neighbour = graph.edges(rows)
    sets = as_sets(graph)
    for p in range(3):
        assert set(neighbour[position == p].tolist()) == sets[int(rows[p])]


def test_bank_keeps_the_last_key_of_a_repeated_slot_and_refuses_strangers():
    bank = Bank(4, 2)
    bank.push(torch.tensor([1, 3, 1]), torch.tensor([[1.0, 0], [0, 1.0], [0.6, 0.8]]))
    assert bank.keys[1].tolist() == pytest.approx([0.6, 0.8])
    assert bank.filled.tolist() == [False, True, False, True]
    with pytest.raises(IndexError, match="slots 4..4 outside the bank's 0..3"):
        bank.push(torch.tensor([4]), torch.zeros(1, 2))


def filled_memory(max_negatives=65_536):
    memory = LocalMemory([("photo", 30), ("sketch", 20)], 8, max_negatives)
    for domain, rows in enumerate((30, 20)):
        memory.push(torch.full((rows,), domain), torch.arange(rows), unit_rows(rows, 8, domain))
    return memory


def test_candidates_name_neighbours_and_own_row():
    memory = filled_memory()
    report = memory.rebuild(Neighbourhood(3, 3))
    assert set(report) >= {"share/photo->sketch", "degree/sketch->photo", "share/photo->photo"}
    slot = torch.tensor([5, 2])
    across, inside = memory.candidates(0, slot, 1), memory.candidates(0, slot, 0)
    graph = as_sets(memory.graphs[0, 1])
    assert [set(row.nonzero().flatten().tolist()) for row in across.positive] == [graph[5], graph[2]]
    assert not across.own.any()
    assert inside.own.nonzero().tolist() == [[0, 5], [1, 2]]


def test_sampled_candidates_keep_every_positive_and_bound_the_rest():
    whole, sampled = filled_memory(), filled_memory(max_negatives=5)
    for memory in (whole, sampled):
        memory.rebuild(Neighbourhood(4, 4))
    slot = torch.tensor([0, 7, 19])
    for other in (0, 1):
        full, some = whole.candidates(0, slot, other), sampled.candidates(0, slot, other)
        assert torch.equal(full.positive.sum(1), some.positive.sum(1))
        assert torch.equal(full.own.sum(1), some.own.sum(1))
        assert 5 <= len(some.keys) <= 5 + 3 + int(full.positive.sum())
        row, column = some.positive.nonzero(as_tuple=True)
        expected = {(int(r), tuple(full.keys[c].tolist())) for r, c in full.positive.nonzero()}
        assert {(int(r), tuple(some.keys[c].tolist())) for r, c in zip(row, column, strict=True)} == expected


def test_memory_survives_a_checkpoint(tmp_path):
    memory, other = filled_memory(), LocalMemory([("photo", 30), ("sketch", 20)], 8)
    parts = memory.save(tmp_path)
    other.load(tmp_path, parts, memory.version)
    assert other.version == 2
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(memory.banks, other.banks, strict=True))
    wanted = Neighbourhood(2, 2, centre=True)
    assert memory.rebuild(wanted) == other.rebuild(wanted)
    with pytest.raises(UserError, match="1 rows of the memory bank are missing"):
        LocalMemory([("photo", 31), ("sketch", 20)], 8).load(tmp_path, parts, 2)
    (tmp_path / parts[0].file).write_bytes(b"")
    with pytest.raises(UserError, match="is damaged: bank.safetensors is missing or its checksum differs"):
        other.load(tmp_path, parts, 2)


def test_one_image_domains_have_no_neighbours_inside_and_one_across():
    memory = LocalMemory([("a", 1), ("b", 3)], 4)
    memory.push(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 2]), unit_rows(4, 4, 0))
    report = memory.rebuild(Neighbourhood(50, 50))
    assert report["share/a->a"] == 0 and report["share/a->b"] == 1 and report["degree/a->b"] == 3


def test_a_one_image_domain_keeps_its_likeness_when_domains_are_centred():
    memory, one, many = LocalMemory([("a", 1), ("b", 12)], 4), unit_rows(1, 4, 0), unit_rows(12, 4, 1)
    memory.push(torch.tensor([0] + [1] * 12), torch.tensor([0, *range(12)]), torch.cat([one, many]))
    memory.rebuild(Neighbourhood(None, 3, centre=True))
    score = one @ torch.nn.functional.normalize(many - many.mean(0), dim=1).T
    assert as_sets(memory.graphs[0, 1]) == [set(naive_top_k(score, 3)[0])] != [{0, 1, 2}]
