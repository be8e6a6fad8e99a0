"""TKI's losses against loops in float64 that follow the paper's sums, and their gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.losses.words import aggregation, category_correlation, domain_diversity


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cosine(u: torch.Tensor, v: torch.Tensor) -> float:
    return float(sum(a * b for a, b in zip(u, v))) / (
        math.sqrt(sum(float(a) ** 2 for a in u)) * math.sqrt(sum(float(b) ** 2 for b in v))
    )


@given(st.integers(2, 5), st.integers(1, 6), st.floats(0.5, 20), st.floats(-0.5, 0.5), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_domain_diversity_is_eq_1(count: int, dim: int, alpha: float, mu: float, seed: int) -> None:
    t = features(count, dim, seed=seed)
    naive = 0.0
    for p in range(count):
        for q in range(count):
            if q != p:
                naive += math.log(1 + math.exp(alpha * (cosine(t[p], t[q]) - mu)))
    naive /= count * (count - 1)
    assert domain_diversity(t, alpha, mu).item() == pytest.approx(naive, rel=1e-9)


def test_one_domain_has_nothing_to_differ_from() -> None:
    assert domain_diversity(features(1, 4), 10, 0).item() == 0


@given(st.integers(1, 4), st.integers(1, 5), st.floats(0.05, 2), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_category_correlation_is_eq_3(count: int, classes: int, tau: float, seed: int) -> None:
    prompts, words = features(count, classes, 7, seed=seed), features(classes, 7, seed=seed + 1)
    which = torch.arange(classes)
    naive = 0.0
    for p in range(count):
        for i in range(classes):
            below = sum(math.exp(cosine(prompts[p, i], words[j]) / tau) for j in range(classes))
            naive -= math.log(math.exp(cosine(prompts[p, i], words[i]) / tau) / below)
    naive /= count * classes
    found = category_correlation(prompts, words, which, tau).item()
    assert found == pytest.approx(naive, rel=1e-9, abs=1e-12)
    # the mean of its parts, whichever classes are taken together
    parts = [category_correlation(prompts[:, [i]], words, torch.tensor([i]), tau).item() for i in which]
    assert sum(parts) / classes == pytest.approx(naive, rel=1e-9, abs=1e-12)


@given(st.integers(2, 4), st.integers(1, 5), st.floats(0.05, 2), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_aggregation_is_eq_6(count: int, classes: int, tau: float, seed: int) -> None:
    h = torch.nn.functional.normalize(features(count, classes, 6, seed=seed), dim=2)
    naive = 0.0
    for p in range(count):
        for i in range(classes):
            above = sum(math.exp(float(h[p, i] @ h[q, i]) / tau) for q in range(count) if q != p)
            below = sum(
                math.exp(float(h[p, i] @ h[q, j]) / tau) for q in range(count) for j in range(classes)
            )
            naive -= math.log(above / below)
    naive /= count * classes
    assert aggregation(h, tau).item() == pytest.approx(naive, rel=1e-9)


def test_with_one_domain_classes_are_still_told_apart() -> None:
    h = torch.nn.functional.normalize(features(1, 3, 6), dim=2)
    naive = 0.0
    for i in range(3):
        naive -= (
            math.log(math.exp(1 / 0.5) / sum(math.exp(float(h[0, i] @ h[0, j]) / 0.5) for j in range(3))) / 3
        )
    assert aggregation(h, 0.5).item() == pytest.approx(naive, rel=1e-9)


def test_gradients() -> None:
    prompts, words = features(2, 3, 4), features(3, 4, seed=1)
    for one in (prompts, words):
        one.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: domain_diversity(t, 10, 0.1), (words,))
    assert torch.autograd.gradcheck(
        lambda t, c: category_correlation(t, c, torch.tensor([2, 0, 1]), 0.1), (prompts, words)
    )
    assert torch.autograd.gradcheck(lambda t: aggregation(t, 0.5), (prompts,))
