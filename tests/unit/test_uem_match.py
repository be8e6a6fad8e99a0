"""L_SN2M as the method meets it, where some nearest images are of another prototype than one's own (Eq. 17)."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.uem import DIM, SLOT, TAU, batch, memory, method


def product(u: Tensor, v: Tensor) -> float:
    """The distance of Eq. 15 and 16."""
    return (1 - float(u @ v) / float(u.norm() * v.norm())) * float((u - v).norm())


def nearest(x: Tensor, rows: Tensor) -> int:
    return min(range(len(rows)), key=lambda row: product(x, rows[row]))


def push(x: Tensor, y: Tensor) -> float:
    return math.exp(float(x @ y) / TAU)


def test_an_untrusted_neighbour_does_not_count_above_the_line() -> None:
    made, bank, some = method(), memory(), batch()
    noise = torch.Generator().manual_seed(5)
    for one in bank.banks:
        one.keys.copy_(normalize(one.keys + 0.6 * torch.randn(one.keys.shape, generator=noise), dim=1))
    made.begin_epoch(110, bank)
    z = torch.zeros(8, DIM)
    z[some.domain == 0] = normalize(bank.banks[0].keys[SLOT[:4]] + 0.2, dim=1)
    z[some.domain == 1] = bank.banks[1].keys[SLOT[4:8]]
    loss, measures = made.match(z, some, bank)
    expected, trusted = 0.0, dict.fromkeys(measures, 0.0)
    for (a, b), name in zip(((0, 1), (1, 0)), measures, strict=True):
        own, both, keys = made.structure.prototypes(a).vectors, made.unified[a, b], bank.banks[b].keys
        for x in z[some.domain == a]:
            mine = int(both.place_a[nearest(x, own)])
            near = keys[nearest(x, keys)]
            trust = nearest(near, both.b) == mine
            above = push(x, both.b[mine]) + (push(x, near) if trust else 0)
            below = sum(push(x, p) for p in both.b) + sum(push(x, m) for m in keys)
            expected -= math.log(above / below) / 4
            trusted[name] += trust / 4
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert {name: float(value) for name, value in measures.items()} == pytest.approx(trusted)
    assert any(0 < share < 1 for share in trusted.values())
