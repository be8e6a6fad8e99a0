"""The non-Euclidean MLP h of TKI (Yan et al., sec. 4.2): text and image features in, domain-agnostic features out.

An MLP of two layers, of which the first one works in the Poincaré ball of radius r (curvature -1/r^2); what comes from
outside is taken as a tangent vector at the ball's centre. The larger the radius, the more it is an ordinary layer.
"""

import torch
from geoopt.manifolds.stereographic import math as ball
from torch import Tensor, nn
from torch.nn import functional as F


class MobiusLinear(nn.Module):
    """Tangent vectors in, tangent vectors out: log0(exp0(W v) ⊕ exp0(b)), the linear layer of hyperbolic networks.

    Ganea, Bécigneul, Hofmann (NeurIPS 2018), Def. 3.2 and sec. 3.3: W ⊗ x = exp0(W log0(x)), and here x = exp0(v).
    Weight and bias are Euclidean, in the tangent space: any optimiser will do.

    Args:
        inputs: dimension of v.
        outputs: dimension of the result.
        radius: r > 0 of the ball.
    """

    def __init__(self, inputs: int, outputs: int, radius: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.radius = radius

    def forward(self, v: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs), finite for every finite v: near the rim points are pulled inside."""
        k = v.new_tensor(-1 / self.radius**2)

        def inside(point: Tensor) -> Tensor:
            found: Tensor = ball.project(point, k=k)
            return found

        weighted = inside(ball.mobius_matvec(self.linear.weight, inside(ball.expmap0(v, k=k)), k=k))
        moved = ball.mobius_add(weighted, inside(ball.expmap0(self.linear.bias, k=k)), k=k)
        out: Tensor = ball.logmap0(inside(moved), k=k)
        return out


class Projection(nn.Module):
    """h: Möbius linear, ReLU, linear, unit length; with `radius` None the first layer is linear, too (Table 7).

    Args:
        dim: of CLIP's common space, and of the result.
        radius: r of the ball, None for the Euclidean MLP.
    """

    def __init__(self, dim: int, radius: float | None) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim) if radius is None else MobiusLinear(dim, dim, radius)
        self.second = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """(N, dim), of which the direction counts -> (N, dim) unit rows."""
        return F.normalize(self.second(torch.relu(self.first(F.normalize(t, dim=1)))), dim=1)
