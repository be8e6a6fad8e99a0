"""Products that err a little, and nothing lost by them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vectors import unit_rows
from ucdr_ray.neighbors import screen
from ucdr_ray.neighbors import search as searching
from ucdr_ray.neighbors.mutual import neighbour_graphs
from ucdr_ray.neighbors.nearest import Nearest, scores_of
from ucdr_ray.neighbors.search import Rows, search


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(1, 200),
    st.integers(1, 60),
    st.sampled_from(["unit", "crowded", "opposite", "few values", "lengths", "tiny", "huge"]),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_rounded_products_lose_nothing(rows, keys, dim, k, kind, inside, seed):
    """Searched by products of bfloat16 or of float32, the lists are the same to the bit, and right."""
    a, b = unit_rows(rows, dim, seed), unit_rows(keys, dim, seed + 1)
    if kind in ("crowded", "opposite"):
        shared = unit_rows(1, dim, seed + 2) * 30
        a, b = a + shared, b + shared * (1 if kind == "crowded" else -1)
        a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    elif kind == "few values":
        a, b = (a * 3).round(), (b * 3).round()
    elif kind == "lengths":
        a, b = a * torch.logspace(-3, 3, rows)[:, None], b * torch.logspace(3, -3, keys)[:, None]
    elif kind in ("tiny", "huge"):
        a, b = (x * (1e-14 if kind == "tiny" else 1e14) for x in (a, b))

    def found(fast):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(searching, "side", lambda device: 64)
            patch.setattr(screen, "fast_bfloat16", lambda device: fast)
            there = Nearest(rows, k)
            if inside:
                search(Rows.all(a), there)
                return [there.codes()]
            back = Nearest(keys, k)
            search(Rows.all(a), there, Rows.all(b), back)
            return [there.codes(), back.codes()]

    lists = found(True)
    assert all(torch.equal(rounded, whole) for rounded, whole in zip(lists, found(False), strict=True))
    other = a if inside else b
    score = a.double() @ other.double().T
    if inside:
        score.fill_diagonal_(float("-inf"))
    best = score.sort(dim=1, descending=True).values[:, : min(k, len(other) - inside)]
    far = 1e-6 * float(a.norm(dim=1).max() * other.norm(dim=1).max()) + 1e-40
    torch.testing.assert_close(scores_of(lists[0])[:, : best.shape[1]].double(), best, rtol=0, atol=far)


@pytest.mark.parametrize("shared", [0.0, 2.0, 10.0])
@pytest.mark.parametrize("fast", [True, False])
def test_few_pairs_are_scored_one_by_one(shared, fast, monkeypatch):
    """However crowded the scores are: with `shared` 10 all cosines are near 0.99."""
    scored = []

    def counted(a, i, b, j):
        scored.append(len(i))
        return screen.dots(a, i, b, j)

    monkeypatch.setattr(searching, "dots", counted)
    monkeypatch.setattr(screen, "fast_bfloat16", lambda device: fast)
    rows = torch.nn.functional.normalize(unit_rows(3000, 128, 0) + shared * unit_rows(1, 128, 1), dim=1)
    search(Rows.all(rows), Nearest(len(rows), 10))
    assert sum(scored) < 0.05 * 3000**2


@pytest.mark.parametrize("length", [1e-20, 1e20, float("inf"), float("nan")])
def test_vectors_too_long_or_short_for_float32_are_refused(length):
    with pytest.raises(ValueError, match="must be finite, and of length 0 or between"):
        neighbour_graphs(unit_rows(50, 8, 0) * length, None, 3)
