"""Flow diffusion against a direct solver of what it minimises, and by what must hold of any diffusion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ucdr_ray.errors import UserError
from ucdr_ray.neighbors.flow import diffuse

Floats = NDArray[np.float64]


def world(seed: int, count: int, share: float) -> tuple[Floats, Floats, Floats]:
    """A connected weighted graph, mass on some vertices, capacities that hold `1 / share` of it."""
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((count, count)) < 0.3, rng.uniform(0.1, 2, (count, count)), 0)
    order = rng.permutation(count)
    dense[order[:-1], order[1:]] = rng.uniform(0.1, 2, count - 1)
    dense = np.triu(dense + dense.T, 1)
    dense = dense + dense.T
    capacity = rng.uniform(0.2, 2, count)
    mass = np.where(rng.random(count) < 0.3, rng.random(count), 0)
    mass[order[0]] += 1
    return dense, mass * share * capacity.sum() / mass.sum(), capacity


def solved(dense: Floats, mass: Floats, capacity: Floats) -> Floats:
    """The minimiser, directly: with the vertices above 0 known it is a linear system; they only ever grow in number."""
    laplacian = np.diag(dense.sum(1)) - dense
    x = np.zeros(len(mass))
    above = mass > capacity
    while True:
        x[above] = np.linalg.solve(laplacian[np.ix_(above, above)], (mass - capacity)[above])
        more = above | (mass - laplacian @ x > capacity + 1e-12)
        if (more == above).all():
            return x
        above = more


@given(st.integers(0, 2**31), st.integers(3, 25), st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_potential_is_the_minimiser(seed: int, count: int, share: float) -> None:
    dense, mass, capacity = world(seed, count, share)
    flow = diffuse(csr_array(dense), mass, capacity, tolerance=1e-12)
    expected = solved(dense, mass, capacity)
    np.testing.assert_allclose(flow.potential, expected, rtol=1e-6, atol=1e-7)
    # So it is what no other potential does better at: x >= 0, slope >= 0, and one of both is 0.
    laplacian = np.diag(dense.sum(1)) - dense
    slope = laplacian @ flow.potential + capacity - mass
    assert (flow.potential >= 0).all() and (slope >= -1e-9).all()
    assert np.abs(flow.potential * slope).max() < 1e-6


@given(st.integers(0, 2**31), st.integers(3, 40), st.floats(0.1, 0.9), st.floats(1e-6, 0.1))
@settings(max_examples=40, deadline=None)
def test_mass_is_conserved_and_below_capacity(seed: int, count: int, share: float, tolerance: float) -> None:
    dense, mass, capacity = world(seed, count, share)
    flow = diffuse(csr_array(dense), mass, capacity, tolerance)
    assert flow.mass.sum() == pytest.approx(mass.sum(), rel=1e-9)
    assert (flow.mass <= capacity * (1 + tolerance) + 1e-12).all()
    # What a vertex holds is what came minus what went along its edges.
    moved = dense * (flow.potential[:, None] - flow.potential)
    np.testing.assert_allclose(flow.mass, mass - moved.sum(1), atol=1e-9)


@given(st.integers(0, 2**31), st.integers(3, 25))
@settings(max_examples=20, deadline=None)
def test_order_of_vertices_does_not_matter(seed: int, count: int) -> None:
    dense, mass, capacity = world(seed, count, 0.6)
    order = np.random.default_rng(seed).permutation(count)
    one = diffuse(csr_array(dense), mass, capacity, 1e-10)
    other = diffuse(csr_array(dense[np.ix_(order, order)]), mass[order], capacity[order], 1e-10)
    np.testing.assert_allclose(one.potential[order], other.potential, atol=1e-9)


@given(st.integers(0, 2**31), st.integers(3, 25))
@settings(max_examples=20, deadline=None)
def test_more_mass_reaches_at_least_as_far(seed: int, count: int) -> None:
    dense, mass, capacity = world(seed, count, 0.8)
    less = diffuse(csr_array(dense), mass * 0.7, capacity, 1e-10)
    more = diffuse(csr_array(dense), mass, capacity, 1e-10)
    assert (more.potential >= less.potential - 1e-8).all()


def test_a_vertex_without_edges_keeps_what_it_has() -> None:
    weights = csr_array(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    flow = diffuse(weights, np.array([1.5, 0, 0.5]), np.ones(3), 1e-9)
    np.testing.assert_allclose(flow.mass, [1, 0.5, 0.5], atol=1e-8)


def test_where_all_can_keep_theirs_nothing_flows() -> None:
    dense, mass, capacity = world(0, 10, 0.5)
    flow = diffuse(csr_array(dense), np.minimum(mass, capacity), capacity)
    assert flow.steps == 0 and not flow.potential.any()


def test_what_cannot_come_to_rest_is_refused() -> None:
    two = csr_array(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    with pytest.raises(UserError, match="vertex 2 is in gets mass 1.5 and can keep less than 1"):
        diffuse(two, np.array([0, 0, 1.5]), np.ones(3))
    for mass, capacity in (([-1.0, 0, 0], [1.0, 1, 1]), ([0, 0, 0], [1, 0, 1]), ([np.nan, 0, 0], [1, 1, 1])):
        with pytest.raises(UserError, match="allowed are mass >= 0 and capacity > 0"):
            diffuse(two, np.array(mass, dtype=float), np.array(capacity, dtype=float))
    path = csr_array(np.diag(np.ones(59), 1) + np.diag(np.ones(59), -1))
    with pytest.raises(UserError, match="10 steps, and a vertex still holds"):
        diffuse(path, np.eye(60)[0] * 50, np.ones(60), most=10)
