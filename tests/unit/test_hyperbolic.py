"""TKI's non-Euclidean layer: against the closed forms of the Poincaré ball, at its two limits, and at its rim."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.models.hyperbolic import MobiusLinear, Projection


def exp0(v: torch.Tensor, r: float) -> torch.Tensor:
    length = v.norm(dim=-1, keepdim=True)
    return r * torch.tanh(length / r) * v / length


def log0(x: torch.Tensor, r: float) -> torch.Tensor:
    length = x.norm(dim=-1, keepdim=True)
    return r * torch.atanh(length / r) * x / length


def add(x: torch.Tensor, y: torch.Tensor, r: float) -> torch.Tensor:
    c = 1 / r**2
    xy, xx, yy = ((a * b).sum(-1, keepdim=True) for a, b in ((x, y), (x, x), (y, y)))
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / (1 + 2 * c * xy + c**2 * xx * yy)


def layer(radius: float, inputs: int = 5, outputs: int = 4) -> MobiusLinear:
    torch.manual_seed(0)
    return MobiusLinear(inputs, outputs, radius).double()


@given(st.floats(0.5, 5), st.floats(0.01, 1), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_layer_is_its_closed_form(radius: float, length: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    v = length * radius * v / v.norm(dim=1, keepdim=True)
    found = layer(radius)
    w, b = found.linear.weight, found.linear.bias
    expected = log0(add(exp0(v @ w.T, radius), exp0(b, radius), radius), radius)
    torch.testing.assert_close(found(v), expected, rtol=1e-9, atol=1e-12)


def test_a_large_ball_is_flat() -> None:
    v = torch.randn(50, 5, dtype=torch.float64)
    gaps = [
        float((found(v) - found.linear(v)).detach().abs().max())
        for found in (layer(10.0**power) for power in (1, 2, 3))
    ]
    assert gaps[2] < 1e-5
    # The curvature is 1/r^2, and so is what it changes.
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.2) and gaps[1] / gaps[2] == pytest.approx(
        100, rel=0.2
    )


def test_a_small_ball_is_not_flat() -> None:
    v = torch.randn(50, 5, dtype=torch.float64)
    found = layer(1)
    assert float((found(v) - found.linear(v)).detach().abs().max()) > 0.05


def test_gradients() -> None:
    found, v = layer(1), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(found, (v,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-6, 1.0, 30.0, 1e4, 1e15])
def test_rim_and_centre_are_finite(length: float, dtype: torch.dtype) -> None:
    model = Projection(8, radius=1).to(dtype)
    v = torch.nn.functional.normalize(torch.randn(16, 8), dim=1).to(dtype).mul(length).requires_grad_()
    out = model(v)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert v.grad is not None and torch.isfinite(v.grad).all()
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)


def test_projection_is_of_unit_length_and_trains_every_weight() -> None:
    for radius in (1.0, None):
        model = Projection(8, radius)
        out = model(torch.randn(10, 8))
        torch.testing.assert_close(out.norm(dim=1), torch.ones(10))
        (out @ torch.randn(8)).sum().backward()
        assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in model.parameters())
