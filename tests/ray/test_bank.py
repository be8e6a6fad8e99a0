"""The sharded memory bank against the one in process: the same questions, the same answers, bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ucdr_ray.cluster.bank import BankSpec
from ucdr_ray.cluster.memory import ShardedMemory
from ucdr_ray.cluster.shards import start_shards
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

pytestmark = pytest.mark.usefixtures("ray_session")

NAMES, SIZES, DIM = ["one", "photo", "sketch"], [1, 37, 23], 8
WORKERS = 2


class Workers:
    """What `World` is to processes, for the threads of this one."""

    def __init__(self, size):
        self.size, self._meeting, self._left = size, threading.Barrier(size), [None] * size

    def member(self, rank):
        return Member(self, rank)

    def gather(self, rank, value):
        self._left[rank] = value
        self._meeting.wait()
        found = list(self._left)
        self._meeting.wait()
        return found


class Member:
    def __init__(self, workers, rank):
        self._workers, self.rank, self.size = workers, rank, workers.size

    def exchange(self, domain, slot, key):
        parts = self._workers.gather(self.rank, (domain, slot, key))
        return tuple(torch.cat([part[i] for part in parts]) for i in range(3))

    def copy_first(self, values):
        for value in values:
            value.copy_(self._workers.gather(self.rank, value)[0])

    def barrier(self):
        self._workers.gather(self.rank, None)

    def sum(self, value):
        return value


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
    """For each worker domains, slots and keys of some rows; slots may come twice."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for worker in range(WORKERS):
        domain = torch.randint(0, len(SIZES), (rows,), generator=draw).sort().values
        slot = (torch.rand(rows, generator=draw) * torch.tensor(SIZES)[domain]).long()
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
)
steps = st.tuples(st.just("step"), st.integers(0, 2**20), st.integers(0, 12))
events = st.one_of(
    steps,
    steps,
    st.tuples(st.just("search"), searches),
    st.tuples(st.just("save")),
    st.tuples(st.just("restore")),
)


@pytest.mark.parametrize("count", [1, 3])
@settings(
    max_examples=25,
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
