"""Flow diffusion on a sparse graph: mass spreads from seeds until no vertex holds more than it may keep.

COUPLE's diffusion (Luo et al., TIP 2025), which is that of Wang, Fountoulakis, Mahoney (p-norm flow diffusion, ICML
2020, p = 2): a vertex that holds more than its capacity pushes the excess to its neighbours, in proportion to the
edges' weights, and its potential grows by excess / degree. At the end the potential x solves

    min over x >= 0 of  1/2 x' L x + x' (capacity - mass),     L the weighted Laplacian.

All vertices push at once, so no order of them matters. A step costs as much as there are edges; the number of steps
grows with how far mass must travel, not with the number of vertices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from ucdr_ray.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Flow:
    """What has come to rest.

    Attributes:
        potential: (N,) x >= 0; above 0 exactly where a vertex has pushed.
        mass: (N,) what each vertex holds, at most its capacity and the tolerance.
        steps: how often all vertices pushed.
    """

    potential: Floats
    mass: Floats
    steps: int


def diffuse(
    weights: csr_array, mass: Floats, capacity: Floats, tolerance: float = 1e-4, most: int = 100_000
) -> Flow:
    """Spread `mass` over the graph.

    Args:
        weights: (N, N) symmetric, >= 0, nothing on the diagonal.
        mass: (N,) >= 0, Delta: what each vertex holds at first.
        capacity: (N,) > 0, T: what each may keep.
        tolerance: by how much of its capacity a vertex may exceed it in the end, > 0.
        most: steps after which it is given up.

    Raises:
        UserError: the graph, or a connected part of it, can't hold the mass; or it does not come to rest in time.
    """
    _check(weights, mass, capacity)
    degree = weights.sum(axis=1)
    share = np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
    potential, held = np.zeros_like(mass), mass.astype(np.float64)
    for step in range(most):
        excess = np.maximum(held - capacity, 0)
        if (excess <= tolerance * capacity).all():
            return Flow(potential, held, step)
        rise = excess * share
        potential += rise
        held += weights @ rise - excess
    raise UserError(
        f"flow diffusion: {most:,} steps, and a vertex still holds {(held / capacity).max():.3g} of its capacity; "
        "allowed: a larger tolerance, less mass, or better connected vertices"
    )


def _check(weights: csr_array, mass: Floats, capacity: Floats) -> None:
    if (
        not (np.isfinite(mass).all() and np.isfinite(capacity).all())
        or (mass < 0).any()
        or (capacity <= 0).any()
    ):
        raise UserError("flow diffusion: allowed are mass >= 0 and capacity > 0 of every vertex")
    # A part that only just holds its mass comes to rest after endless time.
    _, part = connected_components(weights, directed=False)
    full = np.bincount(part, mass) >= np.bincount(part, capacity)
    if full.any():
        vertex = int(np.flatnonzero(full[part])[0])
        raise UserError(
            f"flow diffusion: the part of the graph that vertex {vertex} is in gets mass "
            f"{mass[part == part[vertex]].sum():.6g} and can keep less than {capacity[part == part[vertex]].sum():.6g}"
        )
