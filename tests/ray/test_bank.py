"""The sharded memory bank against the one in process: the same questions, the same answers, bit for bit."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import ray
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers import Workers
from ucdr_ray.cluster.bank import BankSpec
from ucdr_ray.cluster.memory import _TRIES, ShardedMemory
from ucdr_ray.cluster.shards import start_shards
from ucdr_ray.errors import UserError
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

pytestmark = pytest.mark.usefixtures("ray_session")

NAMES, SIZES, DIM = ["one", "photo", "sketch"], [1, 37, 23], 8
WORKERS = 2


@pytest.fixture(scope="module")
def shards(ray_session, tmp_path_factory):
    """`shards(count, momentum)`: actors, the same ones for the same question."""
    started = {}

    def of(count, momentum):
        if (count, momentum) not in started:
            run = tmp_path_factory.mktemp("bank")
            started[count, momentum] = start_shards(BankSpec(SIZES, DIM, count, momentum, run, 1), 30.0)
        return started[count, momentum]

    return of


def unit_rows(rows, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, DIM, generator=draw), dim=1)


def random_step(seed, rows):
    """For each worker domains, slots and keys of some rows; slots may come twice, or at both."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for worker in range(WORKERS):
        domain = torch.randint(0, len(SIZES), (rows,), generator=draw).sort().values
        slot = (torch.rand(rows, generator=draw) * torch.tensor(SIZES)[domain]).long()
        if seed % 3 == 0 and parts:
            domain, slot = parts[0][:2]
        parts.append((domain, slot, unit_rows(rows, seed * WORKERS + worker)))
    return parts


def answers(memory, domain, slot):
    """All that a step may ask for its rows."""
    return [
        memory.candidates(a, slot[domain == a], b)
        for a in domain.unique().tolist()
        for b in range(len(SIZES))
    ]


def one_step(memory, domain, slot, key):
    memory.expect(domain, slot)
    memory.push(domain, slot, key)
    return answers(memory, domain, slot)


def same(found, expected):
    return all(
        torch.equal(f.keys, e.keys) and torch.equal(f.positive, e.positive) and torch.equal(f.own, e.own)
        for f, e in zip(found, expected, strict=True)
    )


@pytest.fixture(scope="module")
def together():
    """`together(function)`: what it gives for each worker, all at the same time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield lambda function: list(pool.map(function, range(WORKERS)))


def clients(actors, negatives, copy):
    workers = Workers(WORKERS)
    device = torch.device("cpu")
    return [
        ShardedMemory(actors, NAMES, workers.member(rank), negatives, 0, device, copy)
        for rank in range(WORKERS)
    ]


searches = st.builds(
    Neighbourhood,
    st.sampled_from([None, 1, 4, 60]),
    st.sampled_from([None, 2, 60]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1]),
)
steps = st.tuples(st.just("step"), st.integers(0, 2**20), st.integers(0, 12))
events = st.one_of(
    steps,
    steps,
    st.tuples(st.just("search"), searches),
    st.tuples(st.just("save")),
    st.tuples(st.just("restore")),
)


@pytest.mark.usefixtures("however_scattered")
@pytest.mark.parametrize("count", [3])
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    happened=st.lists(events, min_size=3, max_size=12),
    momentum=st.sampled_from([0.0, 0.9]),
    negatives=st.sampled_from([5, 65_536]),
    copy=st.booleans(),
)
def test_sharded_and_local_memory_give_the_same(
    shards, together, tmp_path_factory, count, happened, momentum, negatives, copy
):
    """Through any sequence of steps, searches, checkpoints and returns to the last one."""
    folder = tmp_path_factory.mktemp("checkpoint")
    local = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM, negatives, momentum=momentum)
    members = clients(shards(count, momentum), negatives, copy)
    together(lambda rank: members[rank].load(folder, [], 0))
    saved = {"local": [], "sharded": [], "version": 0}
    for kind, *value in happened:
        if kind == "step":
            parts = random_step(*value)
            found = together(lambda rank, parts=parts: one_step(members[rank], *parts[rank]))
            local.push(*(torch.cat([part[i] for part in parts]) for i in range(3)))
            for rank, (domain, slot, _) in enumerate(parts):
                assert same(found[rank], answers(local, domain, slot))
            assert value[0] % 3 or same(*found)
        elif kind == "search":
            reports = together(lambda rank, wanted=value[0]: members[rank].rebuild(wanted))
            assert reports == [local.rebuild(*value)] * WORKERS
        elif kind == "save":
            (folder / "local").mkdir(exist_ok=True)
            saved = {"local": local.save(folder / "local"), "sharded": members[0].save(folder)}
            saved["version"] = local.version
        else:
            local.load(folder / "local", saved["local"], saved["version"])
            back = saved["sharded"], saved["version"]
            together(lambda rank, back=back: members[rank].load(folder, *back))
        assert {member.version for member in members} == {local.version}


def sweep(seed):
    """Every row once, half of each domain at each worker."""
    halves = [[torch.arange(n)[rank::WORKERS] for n in SIZES] for rank in range(WORKERS)]
    return [
        (
            torch.cat([torch.full_like(slots, index) for index, slots in enumerate(half)]),
            torch.cat(half),
            unit_rows(sum(map(len, half)), seed + rank),
        )
        for rank, half in enumerate(halves)
    ]


def push(together, members, local, parts):
    together(lambda rank: members[rank].push(*parts[rank]))
    local.push(*(torch.cat([part[i] for part in parts]) for i in range(3)))


@pytest.mark.parametrize("copy", [True, False])
def test_a_shard_that_was_killed_comes_back(shards, together, tmp_path, copy):
    """With copies, as it was; without, with the rows of the last checkpoint and those that came since."""
    actors = shards(3, 0.0)
    local = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM)
    members = clients(actors, 65_536, copy)
    together(lambda rank: members[rank].load(tmp_path, [], 0))
    push(together, members, local, sweep(0))
    wanted = Neighbourhood(4, 5, centre=True)
    assert together(lambda rank: members[rank].rebuild(wanted)) == [local.rebuild(wanted)] * WORKERS
    for index, actor in enumerate(actors.actors):
        ray.kill(actor, no_restart=False)
        step = random_step(index + 1, 6)
        found = together(lambda rank, step=step: one_step(members[rank], *step[rank]))
        local.push(*(torch.cat([part[i] for part in step]) for i in range(3)))
        for rank, (domain, slot, _) in enumerate(step):
            expected = answers(local, domain, slot)
            # Neighbours are those of the search in any case.
            assert all(
                torch.equal(f.positive, e.positive) for f, e in zip(found[rank], expected, strict=True)
            )
            assert not copy or same(found[rank], expected)
    if not copy:
        push(together, members, local, sweep(7))
    ray.kill(actors.actors[1], no_restart=False)
    if not copy:
        push(together, members, local, sweep(9))
    assert together(lambda rank: members[rank].rebuild(wanted)) == [local.rebuild(wanted)] * WORKERS
    step = random_step(99, 8)
    found = together(lambda rank: one_step(members[rank], *step[rank]))
    local.push(*(torch.cat([part[i] for part in step]) for i in range(3)))
    for rank, (domain, slot, _) in enumerate(step):
        assert same(found[rank], answers(local, domain, slot))


def test_no_worker_goes_on_before_every_shard_has_its_new_graphs(shards, together, tmp_path):
    actors, wanted = shards(3, 0.0), Neighbourhood(4, 5)
    members = clients(actors, 65_536, True)
    together(lambda rank: members[rank].load(tmp_path, [], 0))
    together(lambda rank: members[rank].push(*sweep(0)[rank]))
    together(lambda rank: members[rank].rebuild(wanted))
    attempt, number = members[0]._attempt, 2 * _TRIES
    actors.all("begin", number, members[0].version, wanted, [])
    with ThreadPoolExecutor() as pool:
        other = pool.submit(members[1].rebuild, wanted)
        for shard in (1, 2, 0):
            assert not wait([other], timeout=0.5).done
            ray.get(actors.actors[shard].end.remote(attempt, number, {"found": 1.0}))
        assert other.result() == {"found": 1.0}
    assert ray.get(actors.actors[0].query.remote(attempt, 1, number, {}, None)).edges == {}


def test_a_checkpoint_of_three_shards_loads_into_one_and_into_none(shards, together, tmp_path):
    local = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM)
    members = clients(shards(3, 0.0), 65_536, False)
    together(lambda rank: members[rank].load(tmp_path, [], 0))
    push(together, members, local, sweep(0))
    parts = members[0].save(tmp_path)
    assert len(parts) == 3
    single = clients(shards(1, 0.0), 65_536, False)
    together(lambda rank: single[rank].load(tmp_path, parts, 1))
    alone = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM)
    alone.load(tmp_path, parts, 1)
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(alone.banks, local.banks, strict=True))
    step = random_step(5, 8)
    found = together(lambda rank: one_step(single[rank], *step[rank]))
    for memory in (local, alone):
        memory.push(*(torch.cat([part[i] for part in step]) for i in range(3)))
        for rank, (domain, slot, _) in enumerate(step):
            assert same(found[rank], answers(memory, domain, slot))


def test_a_damaged_part_is_named(shards, together, tmp_path):
    members = clients(shards(3, 0.0), 65_536, False)
    together(lambda rank: members[rank].load(tmp_path, [], 0))
    parts = members[0].save(tmp_path)
    (tmp_path / parts[1].file).write_bytes(b"")
    alone = clients(shards(1, 0.0), 65_536, False)[0]
    with pytest.raises(UserError, match="bank-00001-of-00003.safetensors is missing or its checksum differs"):
        alone._shards.all("load", 1, str(tmp_path), [part.model_dump() for part in parts], 1)


def test_a_shard_killed_while_it_writes_a_checkpoint_leaves_a_whole_one(shards, together, tmp_path):
    actors = shards(3, 0.0)
    local = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM)
    members = clients(actors, 65_536, True)
    together(lambda rank: members[rank].load(tmp_path, [], 0))
    push(together, members, local, sweep(0))
    with ThreadPoolExecutor(1) as aside:
        writing = aside.submit(members[0].save, tmp_path)
        ray.kill(actors.actors[2], no_restart=False)
        parts = writing.result()
    push(together, members, local, sweep(2))  # a later version, which no checkpoint has
    found = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM)
    found.load(tmp_path, parts, 1)
    expected = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM)
    expected.push(*(torch.cat([part[i] for part in sweep(0)]) for i in range(3)))
    assert all(torch.equal(a.keys, b.keys) for a, b in zip(found.banks, expected.banks, strict=True))
