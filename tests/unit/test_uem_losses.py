"""The losses of UEM against loops written from its equations, one number at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.losses.adversarial import domain_adversarial, reverse_gradient
from ucdr_ray.losses.prototype import alpha, instance_nce, prototype_nce, semantic_enhanced
from ucdr_ray.losses.sn2m import nearest_prototype, sn2m
from ucdr_ray.losses.structure import structure_preserving
from ucdr_ray.neighbors.distance import euclidean, product_distance

TAU = 0.07
SEEDS = st.integers(0, 2**31)
SIZES = (st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))


def draw(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(seed, *shape):
    return torch.nn.functional.normalize(draw(seed, *shape), dim=1)


def choice(seed, rows, among):
    return torch.randint(among, (rows,), generator=torch.Generator().manual_seed(seed))


def dot(u, v):
    return math.fsum(float(x) * float(y) for x, y in zip(u, v, strict=True))


def gap(u, v):
    return math.sqrt(math.fsum((float(x) - float(y)) ** 2 for x, y in zip(u, v, strict=True)))


def cosine(u, v):
    return dot(u, v) / math.sqrt(dot(u, u) * dot(v, v))


def product(u, v):
    return (1 - cosine(u, v)) * gap(u, v)


def first_smallest(values):
    return min(range(len(values)), key=values.__getitem__)


def close(result, expected):
    torch.testing.assert_close(
        result, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9, check_dtype=False
    )


@settings(max_examples=30, deadline=None)
@given(*SIZES, SEEDS)
def test_instance_nce_is_eq_6(batch, more, dim, seed):
    """The batch may have more keys than this worker has images, in any order."""
    z, keys = unit(seed, batch, dim), unit(seed + 1, batch + more, dim)
    own = torch.randperm(batch + more, generator=torch.Generator().manual_seed(seed))[:batch]
    expected = [
        -math.log(
            math.exp(dot(z[i], keys[own[i]]) / TAU) / math.fsum(math.exp(dot(z[i], m) / TAU) for m in keys)
        )
        for i in range(batch)
    ]
    close(instance_nce(z, keys, own, TAU), expected)


@settings(max_examples=30, deadline=None)
@given(*SIZES, SEEDS)
def test_prototype_nce_is_eq_7(batch, count, dim, seed):
    z, prototypes, cluster = (
        unit(seed, batch, dim),
        0.7 * draw(seed + 1, count, dim),
        choice(seed, batch, count),
    )
    expected = [
        -math.log(
            math.exp(dot(z[i], prototypes[cluster[i]]) / TAU)
            / math.fsum(math.exp(dot(z[i], p) / TAU) for p in prototypes)
        )
        for i in range(batch)
    ]
    close(prototype_nce(z, prototypes, cluster, TAU), expected)


@settings(max_examples=30, deadline=None)
@given(*SIZES, SEEDS)
def test_semantic_enhanced_is_eq_11(batch, count, dim, seed):
    z, prototypes = unit(seed, batch, dim), 0.7 * draw(seed + 1, count, dim)
    expected = []
    for x in z:
        weight = [math.exp(dot(x, p) / TAU) for p in prototypes]
        far = [gap(x, p) for p in prototypes]
        expected.append(math.fsum(w / math.fsum(weight) * d for w, d in zip(weight, far, strict=True)))
    close(semantic_enhanced(z, prototypes, TAU), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), SEEDS)
def test_domain_adversarial_is_eq_13(batch, seed):
    logit, of_a = 3 * draw(seed, batch), choice(seed, batch, 2).bool()
    expected = []
    for value, y in zip(logit.tolist(), of_a.tolist(), strict=True):
        g = 1 / (1 + math.exp(-value))
        expected.append(-y * math.log(g) - (1 - y) * math.log(1 - g))
    close(domain_adversarial(logit, of_a), expected)


@settings(max_examples=30, deadline=None)
@given(*SIZES, SEEDS)
def test_structure_preserving_is_eq_14(batch, dim, other, seed):
    now, before = draw(seed, batch, dim), draw(seed + 1, batch, other)
    expected = 0.0
    for i in range(batch):
        for j in range(batch):
            expected += (cosine(now[i], now[j]) - cosine(before[i], before[j])) ** 2
            expected += (gap(now[i], now[j]) - gap(before[i], before[j])) ** 2
    close(structure_preserving(now, before).mean(), expected / batch**2)


@settings(max_examples=30, deadline=None)
@given(*SIZES, SEEDS)
def test_product_distance_is_that_of_eq_15_and_16(rows, others, dim, seed):
    u, v = draw(seed, rows, dim), draw(seed + 1, others, dim)
    expected = [[product(x, y) for y in v] for x in u]
    close(product_distance(u, v), expected)
    for row, nearest in zip(expected, nearest_prototype(u, v).tolist()):
        assert row[nearest] == pytest.approx(min(row), abs=1e-12)


def test_product_distance_is_not_led_by_cosine_or_distance_alone():
    x = torch.tensor([[1.0, 0.0]])
    # Direction, distance: (equal, far), (off, near); then (nearly equal, far), (off, nearer).
    assert nearest_prototype(x, torch.tensor([[9.0, 0.0], [1.0, 0.2]])).tolist() == [0]
    assert nearest_prototype(x, torch.tensor([[30.0, 3.0], [0.9, 0.3]])).tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 4), st.integers(2, 4), SEEDS)
def test_sn2m_is_eq_17(batch, rows, count, dim, seed):
    z, bank, prototypes = unit(seed, batch, dim), unit(seed + 1, rows, dim), 0.7 * draw(seed + 2, count, dim)
    translated = choice(seed, batch, count)
    losses, trusted = [], []
    for i in range(batch):
        y = bank[first_smallest([product(z[i], m) for m in bank])]
        own = first_smallest([product(y, p) for p in prototypes])
        above = math.exp(dot(z[i], prototypes[translated[i]]) / TAU)
        if own == translated[i]:
            above += math.exp(dot(z[i], y) / TAU)
        below = math.fsum(math.exp(dot(z[i], row) / TAU) for row in [*prototypes, *bank])
        losses.append(-math.log(above / below))
        trusted.append(own == int(translated[i]))
    result, reliable = sn2m(z, bank, prototypes, translated, TAU)
    close(result, losses)
    assert reliable.tolist() == trusted


def test_sn2m_switches():
    """The nearest image counts where its prototype is the image's own, and there alone."""
    bank = torch.eye(3)
    prototypes = 0.9 * torch.eye(3)
    z = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, 0.0]]), dim=1).requires_grad_()
    trusted, yes = sn2m(z, bank, prototypes, torch.tensor([0]), 1.0)
    doubted, no = sn2m(z, bank, prototypes, torch.tensor([1]), 1.0)
    assert yes.tolist() == [True] and no.tolist() == [False]
    logits = torch.cat([z @ prototypes.T, z @ bank.T], 1).log_softmax(1)[0]
    assert trusted.item() == pytest.approx(-logits[[0, 3]].logsumexp(0).item(), rel=1e-5)
    assert doubted.item() == pytest.approx(-logits[1].item(), rel=1e-5)


def test_sn2m_of_nearly_certain_images_is_nearly_zero():
    """Where the positives are all that counts, in float32 too."""
    z = torch.eye(2)
    loss, reliable = sn2m(z, torch.eye(2), torch.eye(2), torch.tensor([0, 1]), 0.07)
    assert bool(reliable.all()) and loss.abs().max() < 1e-5


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, p: instance_nce(z, p, torch.tensor([2, 0, 1]), 0.3),
        lambda z, p: prototype_nce(z, p, torch.tensor([2, 2, 1]), 0.3),
        lambda z, p: semantic_enhanced(z, p, 0.3),
        lambda z, p: structure_preserving(z, p[:3]),
        lambda z, p: product_distance(z, p),
        lambda z, p: euclidean(z, p),
        lambda z, p: sn2m(z, unit(5, 6, 3), p, torch.tensor([0, 1, 3]), 0.3)[0],
        lambda z, p: sn2m(z, unit(5, 6, 3), p, nearest_prototype(unit(5, 6, 3)[:3], p), 0.3)[0],
        lambda z, p: domain_adversarial(z @ p[0], torch.tensor([True, False, True])),
    ],
)
def test_gradients(loss):
    z, p = unit(3, 3, 3).requires_grad_(), (0.7 * draw(4, 4, 3)).requires_grad_()
    assert torch.autograd.gradcheck(loss, (z, p))


def test_both_cases_of_sn2m_are_among_the_gradients():
    z, bank, p = unit(3, 3, 3), unit(5, 6, 3), 0.7 * draw(4, 4, 3)
    own = nearest_prototype(bank, p)[(z @ bank.T).argmax(1)]
    assert bool(sn2m(z, bank, p, own, 0.3)[1].all())
    assert not bool(sn2m(z, bank, p, (own + 1) % 4, 0.3)[1].any())


def test_the_gradient_is_reversed_and_the_value_is_not():
    value = draw(0, 3, 2).requires_grad_()
    through = reverse_gradient(value, 0.5)
    assert torch.equal(through, value)
    through.backward(torch.full((3, 2), 3.0, dtype=torch.float64))
    assert torch.equal(value.grad, torch.full((3, 2), -1.5, dtype=torch.float64))


def test_the_classifier_descends_and_the_extractor_ascends():
    features, weight = draw(0, 6, 2).requires_grad_(), draw(1, 2).requires_grad_()
    of_a = torch.arange(6) < 3
    domain_adversarial(reverse_gradient(features) @ weight, of_a).sum().backward()
    plain = torch.autograd.grad(domain_adversarial(features @ weight, of_a).sum(), (features, weight))
    torch.testing.assert_close(features.grad, -plain[0])
    torch.testing.assert_close(weight.grad, plain[1])


def test_alpha_is_eq_10():
    for epoch, epochs in [(0, 10), (3, 10), (5, 10), (10, 10), (7.5, 20), (0, 1)]:
        expected = 1 / (1 + math.exp(0.5 * epochs - epoch))
        assert alpha(epoch, epochs) == pytest.approx(expected, rel=1e-12)
    assert alpha(0, 10_000) == 0 and alpha(10_000, 10_000) == 1


def test_equal_rows_have_finite_gradients():
    z = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)[torch.tensor([0, 0, 1, 2])].requires_grad_()
    before, prototypes = torch.randn(4, 8), z.detach()[:2].clone()
    total = semantic_enhanced(z, prototypes, TAU).sum() + structure_preserving(z, before).sum()
    (total + product_distance(z, prototypes).sum()).backward()
    assert bool(z.grad.isfinite().all()) and float(z.grad.abs().sum()) > 0


def test_equal_rows_are_exactly_at_distance_zero():
    """In float32, where inner products would put them 3e-4 apart."""
    rows = torch.nn.functional.normalize(torch.randn(64, 128), dim=1)
    assert not euclidean(rows, rows.clone()).diagonal().any()
    assert not product_distance(rows, rows.clone()).diagonal().any()
    assert not structure_preserving(rows, rows.clone()).any()
    assert float(product_distance(rows, 2 * rows).min()) >= 0


@pytest.mark.parametrize("tau", [0.001, 100.0])
def test_extreme_temperatures_stay_finite(tau):
    z, bank, prototypes = unit(0, 4, 3).float(), unit(1, 9, 3).float(), draw(2, 5, 3).float()
    some = torch.tensor([0, 1, 2, 4])
    for loss in (
        instance_nce(z, bank, some, tau),
        prototype_nce(z, prototypes, some, tau),
        semantic_enhanced(z, prototypes, tau),
        sn2m(z, bank, prototypes, some, tau)[0],
    ):
        assert bool(loss.isfinite().all())
    assert bool(domain_adversarial(torch.tensor([1e4, -1e4]), torch.tensor([False, True])).isfinite().all())


def test_one_prototype_teaches_nothing_but_nearness():
    z, prototype = unit(0, 3, 4), draw(1, 1, 4)
    assert not prototype_nce(z, prototype, torch.zeros(3, dtype=torch.int64), TAU).any()
    close(semantic_enhanced(z, prototype, TAU), [gap(x, prototype[0]) for x in z])
