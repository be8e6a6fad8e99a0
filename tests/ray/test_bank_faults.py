"""What becomes of the bank's rows and of a training's steps when shards die, hang, or find their files damaged."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import ray
import torch

from tests.banks import DIM, NAMES, SIZES, WORKERS, answers, clients, one_step, push, random_step, same, sweep
from ucdr_ray.cluster.memory import _TRIES
from ucdr_ray.cluster.shards import Shards
from ucdr_ray.errors import UserError
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood
from ucdr_ray.run import Run

pytestmark = pytest.mark.usefixtures("ray_session")


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
    lives = actors.all("ping")
    if not copy:
        push(together, members, local, sweep(7))
    ray.kill(actors.actors[1], no_restart=False)
    if not copy:
        # What a dying shard still takes goes with it: only what its next life takes is sure to stay.
        while actors.all("ping")[1] == lives[1]:
            time.sleep(0.05)
        push(together, members, local, sweep(9))
    assert together(lambda rank: members[rank].rebuild(wanted)) == [local.rebuild(wanted)] * WORKERS
    step = random_step(99, 8)
    found = together(lambda rank: one_step(members[rank], *step[rank]))
    local.push(*(torch.cat([part[i] for part in step]) for i in range(3)))
    for rank, (domain, slot, _) in enumerate(step):
        assert same(found[rank], answers(local, domain, slot))


def test_a_damaged_checkpoint_does_not_keep_a_shard_from_coming_back(shards, together, tmp_path):
    actors = shards(3, 0.0)
    local = LocalMemory(list(zip(NAMES, SIZES, strict=True)), DIM)
    members = clients(actors, 65_536, True)
    together(lambda rank: members[rank].load(tmp_path, [], 0))
    push(together, members, local, sweep(0))
    damaged = actors.spec.run / "checkpoints" / "000000001"
    damaged.mkdir(parents=True)
    (damaged / "state.json").write_text("{")
    ray.kill(actors.actors[1], no_restart=False)
    together(lambda rank: members[rank].rebuild(Neighbourhood(4, 5)))
    shutil.rmtree(damaged)
    local.rebuild(Neighbourhood(4, 5))
    step = random_step(5, 8)
    found = together(lambda rank: one_step(members[rank], *step[rank]))
    local.push(*(torch.cat([part[i] for part in step]) for i in range(3)))
    for rank, (domain, slot, _) in enumerate(step):
        assert same(found[rank], answers(local, domain, slot))
    assert str(damaged / "state.json") in Run(actors.spec.run).bank_restarts()[-1][1]


def test_a_shard_that_starts_slowly_is_not_taken_for_a_hung_one(shards, tmp_path, monkeypatch):
    @ray.remote
    class Slow:
        def __init__(self):
            with open(tmp_path / "starts", "a") as file:
                file.write("started\n")
            time.sleep(4)

        def ping(self):
            return "life"

    monkeypatch.setattr("ucdr_ray.cluster.shards._PING_SECONDS", 0.2)
    actor = Slow.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    assert Shards([actor], shards(3, 0.0).spec, 0.2).all("ping") == ["life"]
    assert (tmp_path / "starts").read_text() == "started\n"


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
