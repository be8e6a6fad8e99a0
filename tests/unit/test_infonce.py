import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.losses.infonce import info_nce


def naive(similarity, positive, temperature, ignore):
    """Float64, one term at a time."""
    losses = []
    for row in range(similarity.shape[0]):
        columns = [c for c in range(similarity.shape[1]) if not ignore[row, c]]
        below = math.fsum(math.exp(float(similarity[row, c]) / temperature) for c in columns)
        terms = [
            math.log(below) - float(similarity[row, c]) / temperature for c in columns if positive[row, c]
        ]
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(2, 7), st.integers(0, 2**31), st.sampled_from([0.05, 0.2, 1.0]))
def test_equals_naive_loop(rows, keys, seed, temperature):
    torch.manual_seed(seed)
    similarity = torch.rand(rows, keys, dtype=torch.float64) * 2 - 1
    positive, ignore = torch.rand(rows, keys) < 0.4, torch.rand(rows, keys) < 0.3
    ignore[:, 0] = False
    result = info_nce(similarity, positive, temperature, ignore)
    torch.testing.assert_close(
        result, naive(similarity, positive, temperature, ignore), rtol=1e-10, atol=1e-10
    )


def test_gradient():
    torch.manual_seed(0)
    similarity = (torch.rand(3, 6, dtype=torch.float64) * 2 - 1).requires_grad_()
    positive, ignore = torch.rand(3, 6) < 0.5, torch.rand(3, 6) < 0.2
    ignore[:, 0] = False
    assert torch.autograd.gradcheck(lambda s: info_nce(s, positive, 0.3, ignore), similarity)


def test_row_without_positive_gives_no_loss_and_no_gradient():
    similarity = torch.randn(2, 4, requires_grad=True)
    positive = torch.tensor([[True, False, False, False], [False] * 4])
    loss = info_nce(similarity, positive, 0.1)
    loss.sum().backward()
    assert loss[1] == 0
    assert torch.equal(similarity.grad[1], torch.zeros(4))
    assert similarity.grad[0].abs().sum() > 0


def test_one_positive_is_cross_entropy():
    similarity = torch.randn(4, 9)
    target = torch.tensor([0, 3, 8, 2])
    positive = torch.nn.functional.one_hot(target, 9).bool()
    expected = torch.nn.functional.cross_entropy(similarity / 0.07, target, reduction="none")
    torch.testing.assert_close(info_nce(similarity, positive, 0.07), expected)


@pytest.mark.parametrize("temperature", [0.01, 10.0])
def test_stays_finite(temperature):
    similarity = torch.tensor([[1.0, -1.0, 1.0]])
    assert torch.isfinite(info_nce(similarity, torch.tensor([[False, True, False]]), temperature)).all()
