import math

import pytest
import torch

from ucdr_ray.config import load_config
from ucdr_ray.methods.alignment import Alignment
from ucdr_ray.methods.base import Batch
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

SIZES = (7, 5, 6)
TAU = 0.2


@pytest.fixture
def setup():
    torch.manual_seed(0)
    config = load_config(
        None, ["method.k_in=3", "method.k_cross=2", "method.momentum=0.9", f"method.temperature={TAU}"]
    ).method
    backbone = Encoder.from_backbone("random:resnet-mini", 32).backbone
    method = Alignment(Encoder(backbone, 32, head=(16, 8)), config, len(SIZES))
    with torch.no_grad():  # so that the target differs from the online encoder
        for parameter in method.target.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    method.online.eval()
    method.target.eval()
    memory = LocalMemory([(str(i), n) for i, n in enumerate(SIZES)], 8)
    for domain, rows in enumerate(SIZES):
        keys = torch.nn.functional.normalize(torch.randn(rows, 8), dim=1)
        memory.push(torch.full((rows,), domain), torch.arange(rows), keys)
    domain = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    slot = torch.tensor([0, 6, 3, 4, 1, 2, 5, 0, 3])
    batch = Batch(torch.rand(9, 3, 32, 32), torch.rand(9, 3, 32, 32), domain, slot, global_rows=9)
    return method, memory, batch


def naive_terms(method, memory, batch):
    """The three losses of DUDE, one query, one positive at a time, in float64."""
    query = method.online(batch.query).double()
    banks = [bank.keys.double() for bank in memory.banks]
    graphs = memory.graphs

    def nce(q, keys, positives, left_out=()):
        below = math.fsum(math.exp(float(q @ key) / TAU) for j, key in enumerate(keys) if j not in left_out)
        logs = [math.log(below) - float(q @ keys[j]) / TAU for j in positives]
        return sum(logs) / len(logs) if logs else 0.0

    def neighbours(a, b, i):
        graph = graphs[a, b]
        return graph.indices[graph.indptr[i] : graph.indptr[i + 1]].tolist()

    terms = {"aug": 0.0, "in": 0.0, "cross": 0.0}
    for q, a, i in zip(query, batch.domain.tolist(), batch.slot.tolist(), strict=True):
        terms["aug"] += nce(q, banks[a], [i]) / 9
        terms["in"] += nce(q, banks[a], neighbours(a, a, i), {i}) / 9
        for b in range(3):
            if b != a:
                terms["cross"] += nce(q, banks[b], neighbours(a, b, i)) / 2 / 9
    return terms


def test_losses_equal_the_papers_formulas_in_a_naive_loop(setup):
    method, memory, batch = setup
    stage = method.stages()[2]
    memory.rebuild(Neighbourhood(stage.k_in, stage.k_cross))
    losses = method.step(batch, stage, memory)
    expected = naive_terms(method, memory, batch)  # the step has pushed the batch's keys already
    assert {name: float(value) for name, value in losses.terms.items()} == pytest.approx(expected, rel=1e-4)
    assert float(losses.total.detach()) == pytest.approx(sum(expected.values()), rel=1e-4)


def test_losses_are_float32_whatever_the_precision_of_the_encoders(setup):
    method, memory, batch = setup
    stage = method.stages()[2]
    memory.rebuild(Neighbourhood(stage.k_in, stage.k_cross))
    method.precision = torch.bfloat16
    losses = method.step(batch, stage, memory)
    with torch.autocast("cpu", torch.bfloat16):  # of what naive_terms does, the encoder alone
        expected = naive_terms(method, memory, batch)
    assert {name: float(value) for name, value in losses.terms.items()} == pytest.approx(expected, rel=1e-4)
    assert all(value.dtype == torch.float32 for value in losses.terms.values())


def test_the_bank_holds_the_targets_newest_keys_after_a_step(setup):
    method, memory, batch = setup
    method.step(batch, method.stages()[0], memory)
    expected = method.target(batch.key)
    for row in range(9):
        stored = memory.banks[int(batch.domain[row])].keys[int(batch.slot[row])]
        torch.testing.assert_close(stored, expected[row])


def test_stages_are_cumulative_and_skip_when_empty(setup):
    method, _, _ = setup
    assert [(s.name, set(s.weights)) for s in method.stages()] == [
        ("instance", {"aug"}),
        ("in_domain", {"aug", "in"}),
        ("cross_domain", {"aug", "in", "cross"}),
    ]
    config = load_config(None, ["method.stages.in_domain=0", "method.weight_in=0"]).method
    stages = Alignment(method.encoder, config, 3).stages()
    assert [s.name for s in stages] == ["instance", "cross_domain"]
    assert stages[1].k_in is None


def test_gradient_reaches_the_encoder_only_and_momentum_moves_the_target(setup):
    method, memory, batch = setup
    stage = method.stages()[0]
    method.step(batch, stage, memory).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.head.parameters())
    assert all(p.grad is None for p in method.target.parameters())
    before = [p.clone() for p in method.target.parameters()]
    method.update_target()
    for old, new, online in zip(before, method.target.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)


def test_splitting_the_batch_over_workers_adds_up_to_the_same_loss(setup):
    method, memory, batch = setup
    stage = method.stages()[2]
    memory.rebuild(Neighbourhood(3, 2))
    whole = method.step(batch, stage, memory).total
    parts = 0.0
    for rows in ([0, 3, 4, 6], [1, 2, 5, 7, 8]):
        part = Batch(batch.query[rows], batch.key[rows], batch.domain[rows], batch.slot[rows], 9)
        parts += float(method.step(part, stage, memory).total.detach())
    assert parts == pytest.approx(float(whole.detach()), rel=1e-4)
