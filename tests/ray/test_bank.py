"""The sharded memory bank against the one in process: the same questions, the same answers, bit for bit."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.banks import DIM, NAMES, SIZES, WORKERS, answers, clients, one_step, own_rows, random_step, same
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

pytestmark = pytest.mark.usefixtures("ray_session")


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
    st.tuples(st.just("sample"), st.integers(0, len(SIZES) - 1), st.integers(0, 2**20)),
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
                here, there = own_rows(members[rank], domain, slot), own_rows(local, domain, slot)
                assert all(torch.equal(one, other) for one, other in zip(here, there))
            assert value[0] % 3 or same(*found)
        elif kind == "sample":
            found, expected = members[0].drawn(*value), local.drawn(*value)
            assert all(torch.equal(one, other) for one, other in zip(found, expected))
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
