"""UEM's step against its equations, what each switch changes, and that workers and their number change nothing."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import normalize

from tests.workers import Workers
from ucdr_ray.config import load_config
from ucdr_ray.errors import UserError
from ucdr_ray.losses.prototype import alpha
from ucdr_ray.methods.base import Batch
from ucdr_ray.methods.build import build_method
from ucdr_ray.methods.uem import Uem
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import LocalMemory
from ucdr_ray.world import World

SIZES, DIM, TAU = (60, 50), 8, 0.07
DOMAIN = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
SLOT = torch.tensor([3, 0, 55, 7, 49, 4, 6, 11])


def method(*settings: str, world: World | None = None) -> Uem:
    config = load_config(None, ["method.name=uem", *[f"method.{setting}" for setting in settings]])
    torch.manual_seed(0)
    backbone = Encoder.from_backbone("random:resnet-mini", 32).backbone
    made = build_method(config, Encoder(backbone, 32, head=(16, DIM)), ["photo", "sketch"], world=world)
    made.online.eval()
    made.target.eval()
    with torch.no_grad():  # so that L_SPR is not 0
        for parameter in made.target.head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def memory(exchange=None) -> LocalMemory:
    """Groups at right angles: five of A's, four of which B has too, and one of B's own."""
    draw = torch.Generator().manual_seed(3)
    made = LocalMemory(list(zip(("photo", "sketch"), SIZES)), DIM, exchange=exchange, momentum=0.99)
    for bank, groups in zip(made.banks, ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5])):
        rows = torch.eye(DIM)[torch.tensor(groups)[torch.arange(len(bank.keys)) % 5]]
        rows = normalize(rows + 0.05 * torch.randn(rows.shape, generator=draw), dim=1)
        bank.push(torch.arange(len(rows)), rows)
    return made


def batch(rows: slice | list[int] = slice(None)) -> Batch:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.rand(8, 3, 32, 32, generator=draw)[rows]
    return Batch(pixels, pixels, DOMAIN[rows], SLOT[rows], global_rows=8)


def one_step(made: Uem, bank: LocalMemory, epoch: int, given: Batch | None = None):
    made.begin_epoch(epoch, bank)
    ends = made.switch.epochs
    stage = next(stage for stage in made.stages() if stage.name == ("idse" if epoch < ends else "cdsm"))
    return made.step(given or batch(), stage, bank)


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


def sets(made: Uem, bank: LocalMemory):
    """z, M, P, P' and the map from P to P' of both domains, as lists of float64 rows."""
    with torch.no_grad():
        z = made.encoder(batch().query).double()
    banks = [one.keys.double() for one in bank.banks]
    own = [made.structure.prototypes(a).vectors.double() for a in range(2)]
    whole = [seen.a.double() for seen in made.unified]
    became = [seen.place_a.tolist() for seen in made.unified]
    return z, banks, own, whole, became


@pytest.mark.parametrize("reduction", ["paper", "mean"])
@pytest.mark.parametrize("merge", [True, False])
def test_idse_is_eq_12(reduction: str, merge: bool) -> None:
    made, bank = method(f"reduction={reduction}", f"merge={merge}"), memory()
    losses = one_step(made, bank, 60)
    z, banks, own, whole, became = sets(made, bank)
    expected = {"ince": 0.0, "pnce": 0.0, "sel": 0.0}
    summed = 1 if reduction == "paper" else 4
    for x, a, i in zip(z, DOMAIN.tolist(), SLOT.tolist()):
        keys = banks[a][SLOT[a == DOMAIN]]
        expected["ince"] -= math.log(push(x, banks[a][i]) / sum(push(x, m) for m in keys)) / summed
        cluster = nearest(banks[a][i], own[a], gap)
        prototypes = whole[a] if merge else own[a]
        mine = prototypes[became[a][cluster] if merge else cluster]
        below = sum(push(x, p) for p in prototypes)
        expected["pnce"] -= math.log(push(x, mine) / below) / summed
        expected["sel"] += sum(push(x, p) / below * gap(x, p) for p in prototypes) / 4
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
def test_cdsm_is_eq_18(reduction: str) -> None:
    made, bank = method(f"reduction={reduction}"), memory()
    losses = one_step(made, bank, 110)
    z, banks, own, whole, became = sets(made, bank)
    with torch.no_grad():
        before = made.target(batch().query).double()
        judged = made.extras()["classifier"](z.float()).double().sigmoid()
    expected, trusted = {"dal": 0.0, "spr": 0.0, "sn2m": 0.0}, [0.0, 0.0]
    for i, (x, a) in enumerate(zip(z, DOMAIN.tolist())):
        expected["dal"] -= math.log(judged[i] if a == 0 else 1 - judged[i]) / (
            1 if reduction == "paper" else 8
        )
        for j in range(8):
            if DOMAIN[j] == a:
                change = dot(x, z[j]) - dot(before[i], before[j])
                expected["spr"] += (change**2 + (gap(x, z[j]) - gap(before[i], before[j])) ** 2) / 16
        b = 1 - a
        place = became[a][nearest(x, own[a], product)]
        y = banks[b][nearest(x, banks[b], product)]
        above = push(x, whole[b][place])
        if nearest(y, whole[b], product) == place:
            above += push(x, y)
            trusted[a] += 1 / 4
        below = sum(push(x, p) for p in whole[b]) + sum(push(x, m) for m in banks[b])
        expected["sn2m"] -= math.log(above / below) / 4
    assert values(losses) == pytest.approx(expected, rel=1e-4)
    assert float(losses.total.detach()) == pytest.approx(sum(expected.values()), rel=1e-4)
    shares = {name: float(value) for name, value in losses.measures.items()}
    assert shares == pytest.approx({
        "reliable/photo->sketch": trusted[0], "reliable/sketch->photo": trusted[1]
    })  # fmt: skip


def test_what_is_logged_of_an_epoch() -> None:
    made, bank = method(), memory()
    first, second = made.begin_epoch(0, bank), made.begin_epoch(1, bank)
    assert first == pytest.approx({
        "clusters/photo": 5, "clusters/sketch": 5, "merged": 4, "alpha": alpha(0, 100)
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
    z, banks, *_ = sets(made, bank)
    expected = 0.0
    for x, a in zip(z, DOMAIN.tolist()):
        other = banks[1 - a]
        y = other[nearest(x, other, product)]
        expected -= math.log(push(x, y) / sum(push(x, m) for m in other)) / 4
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
    logit = made.extras()["classifier"](z)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, (DOMAIN == 0).float(), reduction="sum")
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
    z = made.encoder(batch().query).detach()
    for x, a, i in zip(z, DOMAIN.tolist(), SLOT.tolist()):
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
        losses = one_step(made, memory(member.exchange), epoch, batch(shares[rank]))
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


@pytest.mark.parametrize("count", [1, 3])
def test_other_than_two_domains_are_refused(count: int) -> None:
    config = load_config(None, ["method.name=uem"])
    with pytest.raises(UserError, match=r"method.name=uem trains 2 domains, got \d: a.*data.domains=\[A,B\]"):
        build_method(config, Encoder.from_backbone("random:resnet-mini", 32), ["a", "b", "c"][:count])


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
