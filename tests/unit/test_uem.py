"""UEM's step against its equations, what each switch changes, and that workers and their number change nothing."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.uem import NAMES, SLOT, TAU, batch, memory, method
from tests.workers import Workers
from ucdr_ray.config import load_config
from ucdr_ray.errors import UserError
from ucdr_ray.losses.prototype import alpha
from ucdr_ray.methods.base import Losses
from ucdr_ray.methods.uem import Uem
from ucdr_ray.neighbors.memory import LocalMemory


def one_step(made: Uem, bank: LocalMemory, epoch: int, rows: list[int] | None = None) -> Losses:
    made.begin_epoch(epoch, bank)
    name = "idse" if epoch < made.switch.epochs else "cdsm"
    stage = next(stage for stage in made.stages() if stage.name == name)
    return made.step(batch(made.domains, rows), stage, bank)


def values(losses) -> dict[str, float]:
    return {name: float(value) for name, value in losses.terms.items()}


def dot(u, v) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(u, v))


def gap(u, v) -> float:
    return math.sqrt(math.fsum((float(x) - float(y)) ** 2 for x, y in zip(u, v)))


def product(u, v) -> float:
    return (1 - dot(u, v) / math.sqrt(dot(u, u) * dot(v, v))) * gap(u, v)


def nearest(row, others, distance) -> int:
    return min(range(len(others)), key=lambda place: distance(row, others[place]))


def push(u, v) -> float:
    return math.exp(dot(u, v) / TAU)


@dataclass
class Seen:
    """What the equations speak of, in float64: z, M, P, and of each ordered pair P' and the map to it."""

    z: Tensor
    banks: list[Tensor]
    own: list[Tensor]
    whole: dict[tuple[int, int], Tensor]
    became: dict[tuple[int, int], list[int]]

    @classmethod
    def of(cls, made: Uem, bank: LocalMemory) -> "Seen":
        with torch.no_grad():
            z = made.encoder(batch(made.domains).query).double()
        own = [made.structure.prototypes(a).vectors.double() for a in range(made.domains)]
        whole = {pair: one.a.double() for pair, one in made.unified.items()}
        became = {pair: one.place_a.tolist() for pair, one in made.unified.items()}
        return cls(z, [one.keys.double() for one in bank.banks], own, whole, became)

    def images(self):
        """Embedding, domain and slot of each image, and the other domains."""
        for i, x in enumerate(self.z):
            yield x, i // 4, int(SLOT[i]), [b for b in range(len(self.banks)) if b != i // 4]


@pytest.mark.parametrize("reduction", ["paper", "mean"])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("domains", [2, 3])
def test_idse_is_eq_12(domains: int, reduction: str, merge: bool) -> None:
    made, bank = method(f"reduction={reduction}", f"merge={merge}", domains=domains), memory(domains)
    losses = one_step(made, bank, 60)
    seen = Seen.of(made, bank)
    expected = {"ince": 0.0, "pnce": 0.0, "sel": 0.0}
    summed = 1 if reduction == "paper" else 4
    for x, a, i, others in seen.images():
        keys = seen.banks[a][SLOT[4 * a : 4 * a + 4]]
        expected["ince"] -= math.log(push(x, seen.banks[a][i]) / sum(push(x, m) for m in keys)) / summed
        cluster = nearest(seen.banks[a][i], seen.own[a], gap)
        for b in others:
            prototypes = seen.whole[a, b] if merge else seen.own[a]
            mine = prototypes[seen.became[a, b][cluster] if merge else cluster]
            below = sum(push(x, p) for p in prototypes)
            expected["pnce"] -= math.log(push(x, mine) / below) / summed / len(others)
            expected["sel"] += sum(push(x, p) / below * gap(x, p) for p in prototypes) / 4 / len(others)
    assert values(losses) == pytest.approx(expected, rel=1e-4)
    weight = alpha(60, 100)
    total = expected["ince"] + weight * (expected["pnce"] + expected["sel"])
    assert weight > 0.99 and float(losses.total.detach()) == pytest.approx(total, rel=1e-4)


def test_alpha_grows_with_the_epochs() -> None:
    made, bank = method(), memory()
    first, half = one_step(made, bank, 0), one_step(made, bank, 50)
    terms = values(first)
    assert float(first.total.detach()) == pytest.approx(terms["ince"], rel=1e-5)
    terms = values(half)
    total = terms["ince"] + 0.5 * (terms["pnce"] + terms["sel"])
    assert float(half.total.detach()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("reduction", ["paper", "mean"])
@pytest.mark.parametrize("domains", [2, 3])
def test_cdsm_is_eq_18(domains: int, reduction: str) -> None:
    made, bank = method(f"reduction={reduction}", domains=domains), memory(domains)
    losses = one_step(made, bank, 110)
    seen = Seen.of(made, bank)
    with torch.no_grad():
        before = made.target(batch(domains).query).double()
        judged = made.extras()["classifier"](seen.z.float()).double().sigmoid()
    pairs = list(combinations(range(domains), 2))
    expected, trusted = {"dal": 0.0, "spr": 0.0, "sn2m": 0.0}, dict.fromkeys(seen.whole, 0.0)
    for number, (x, a, _, others) in enumerate(seen.images()):
        for j in range(4 * a, 4 * a + 4):
            change = dot(x, seen.z[j]) - dot(before[number], before[j])
            change_of_gap = gap(x, seen.z[j]) - gap(before[number], before[j])
            expected["spr"] += (change**2 + change_of_gap**2) / 16
        for b in others:
            first = judged[number, pairs.index((min(a, b), max(a, b)))]
            loss = -math.log(first if a < b else 1 - first)
            expected["dal"] += loss / (1 if reduction == "paper" else 8) / len(others)
            place = seen.became[a, b][nearest(x, seen.own[a], product)]
            there, y = seen.whole[b, a], seen.banks[b][nearest(x, seen.banks[b], product)]
            above = push(x, there[place])
            if nearest(y, there, product) == place:
                above += push(x, y)
                trusted[a, b] += 1 / 4
            below = sum(push(x, p) for p in there) + sum(push(x, m) for m in seen.banks[b])
            expected["sn2m"] -= math.log(above / below) / 4 / len(others)
    assert values(losses) == pytest.approx(expected, rel=1e-4)
    assert float(losses.total.detach()) == pytest.approx(sum(expected.values()), rel=1e-4)
    shares = {name: float(value) for name, value in losses.measures.items()}
    assert shares == pytest.approx({
        f"reliable/{NAMES[a]}->{NAMES[b]}": share for (a, b), share in trusted.items()
    })  # fmt: skip


def test_what_is_logged_of_an_epoch() -> None:
    made, bank = method(), memory()
    first, second = made.begin_epoch(0, bank), made.begin_epoch(1, bank)
    assert first == pytest.approx({
        "clusters/photo": 5, "clusters/sketch": 4, "merged/photo->sketch": 4, "alpha": alpha(0, 100)
    })  # fmt: skip
    assert second == pytest.approx(
        first | {"stability/photo": 1, "stability/sketch": 1, "alpha": alpha(1, 100)}
    )
    assert "alpha" not in made.begin_epoch(100, bank)


def test_without_sel_or_spr_nothing_else_changes() -> None:
    for epoch, name, setting in ((60, "sel", "weight_sel=0"), (110, "spr", "weight_spr=0")):
        with_it, without = (values(one_step(method(*s), memory(), epoch)) for s in ((), (setting,)))
        assert with_it.pop(name) > 0
        assert without == with_it
    plain = one_step(method("weight_spr=0"), memory(), 110)
    assert set(plain.terms) == {"dal", "sn2m"}


def test_merging_switched_off_leaves_alignment_as_it_is() -> None:
    with_it, without = (one_step(method(f"merge={on}"), memory(), 110) for on in (True, False))
    assert values(with_it) == values(without)


def test_the_plain_nearest_neighbour_is_drawn_to_whatever_its_prototype() -> None:
    made, bank = method("match=nearest"), memory()
    losses = one_step(made, bank, 110)
    seen, expected = Seen.of(made, bank), 0.0
    for x, _, _, (b,) in seen.images():
        y = seen.banks[b][nearest(x, seen.banks[b], product)]
        expected -= math.log(push(x, y) / sum(push(x, m) for m in seen.banks[b])) / 4
    found, full = values(losses), values(one_step(method(), memory(), 110))
    assert found.pop("nearest") == pytest.approx(expected, rel=1e-4)
    del full["sn2m"]
    assert found == full and losses.measures == {}


def test_the_adversary_descends_what_the_encoder_ascends() -> None:
    made, bank = method("weight_spr=0", "weight_match=0.000001"), memory()
    one_step(made, bank, 110).total.backward()
    found = [parameter.grad for parameter in made.encoder.head.parameters()]
    classifier = [parameter.grad for parameter in made.extras()["classifier"].parameters()]
    z = made.encoder(batch().query)
    logit = made.extras()["classifier"](z).squeeze(1)
    of_a = (batch().domain == 0).float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, of_a, reduction="sum")
    modules = [*made.encoder.head.parameters(), *made.extras()["classifier"].parameters()]
    plain = torch.autograd.grad(loss, modules)
    for ours, theirs in zip(found, plain):
        torch.testing.assert_close(ours, -theirs, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(classifier, plain[len(found) :]):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_gradient_reaches_what_is_trained_alone_and_the_frozen_copy_stays() -> None:
    made, bank = method(), memory()
    before = copy.deepcopy(made.target.state_dict())
    one_step(made, bank, 110).total.backward()
    made.update_target()
    made.copy_statistics()
    assert all(torch.equal(value, before[name]) for name, value in made.target.state_dict().items())
    assert all(parameter.grad is None for parameter in made.target.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.encoder.head.parameters())


def test_the_copy_is_made_when_the_second_stage_begins() -> None:
    made, bank = method(), memory()
    same = [
        made.begin_epoch(epoch, bank) and torch.equal(made.target.head[0].weight, made.encoder.head[0].weight)
        for epoch in (0, 99)
    ]
    made.begin_epoch(100, bank)
    assert same == [False, False]
    assert torch.equal(made.target.head[0].weight, made.encoder.head[0].weight)


def test_the_bank_is_averaged_with_the_embeddings() -> None:
    made, bank = method(), memory()
    old = [one.keys.clone() for one in bank.banks]
    one_step(made, bank, 0)
    for x, a, i in zip(made.encoder(batch().query).detach(), batch().domain.tolist(), batch().slot.tolist()):
        torch.testing.assert_close(bank.banks[a].keys[i], normalize(0.99 * old[a][i] + 0.01 * x, dim=0))


@pytest.mark.parametrize("epoch", [60, 110])
def test_workers_add_up_to_the_same_loss_and_gradient(epoch: int) -> None:
    """Two workers with 3 and 5 images of the batch, two and two of each domain."""
    alone, bank = method(), memory()
    whole = one_step(alone, bank, epoch)
    whole.total.backward()
    workers, shares = Workers(2), ([0, 4, 5], [1, 2, 3, 6, 7])

    def work(rank: int):
        member = workers.member(rank)
        made = copies[rank]
        made.world = made.structure.world = member
        losses = one_step(made, memory(exchange=member.exchange), epoch, shares[rank])
        losses.total.backward()
        return made, losses

    copies = [method(), method()]  # the seed of torch is not the threads'
    with ThreadPoolExecutor(2) as pool:
        (one, first), (other, second) = pool.map(work, range(2))
    assert torch.equal(one.structure.vectors, alone.structure.vectors)
    assert torch.equal(other.structure.vectors, alone.structure.vectors)
    for name, value in values(whole).items():
        assert values(first)[name] + values(second)[name] == pytest.approx(value, rel=1e-4)
    for parameter, a, b in zip(
        alone.encoder.parameters(), one.encoder.parameters(), other.encoder.parameters()
    ):
        torch.testing.assert_close(a.grad + b.grad, parameter.grad, rtol=1e-3, atol=1e-4)


def test_stages_and_their_losses() -> None:
    assert [(s.name, s.epochs, set(s.weights), s.contrasts) for s in method().stages()] == [
        ("idse", 100, {"ince", "pnce", "sel"}, True),
        ("cdsm", 50, {"dal", "spr", "sn2m"}, True),
    ]
    assert [s.name for s in method("stages={idse: 0, cdsm: 1}").stages()] == ["cdsm"]
    assert [s.name for s in method("stages={idse: 1, cdsm: 0}").stages()] == ["idse"]


def test_the_papers_values_are_the_defaults() -> None:
    config = load_config(None, ["method.name=uem"])
    assert (config.method.temperature, config.bank.momentum) == (0.07, 0.99)
    assert (config.method.stages.idse, config.method.stages.cdsm) == (100, 50)
    assert load_config(None, ["method.name=uem", "bank.momentum=0.5"]).bank.momentum == 0.5
    assert load_config(None, ["method.name=alignment"]).bank.momentum == 0
    with pytest.raises(UserError, match=r"method.weight_sell: unknown field; did you mean weight_sel\?"):
        load_config(None, ["method.name=uem", "method.weight_sell=0"])
    with pytest.raises(UserError, match="switch=stable with a stage of 0 epochs"):
        load_config(None, ["method.name=uem", "method.switch=stable", "method.stages.cdsm=0"])
    with pytest.raises(UserError, match="switch=stable can't end 7 epochs of stages.idse before epoch 7"):
        load_config(None, ["method.name=uem", "method.switch=stable", "method.stages.idse=7"])
    assert load_config(None, ["method.name=uem", "method.switch=stable", "method.stages.idse=8"])
