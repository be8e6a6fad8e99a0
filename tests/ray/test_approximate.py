"""The approximate search among shards against that of one process, bit for bit."""

import pytest
import torch

from tests.workers import Workers
from ucdr_ray.cluster.bank import BankSpec
from ucdr_ray.cluster.memory import ShardedMemory
from ucdr_ray.cluster.shards import start_shards
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

NAMES = ["one", "photo"]


@pytest.mark.usefixtures("however_scattered")
def test_shards_search_approximately_as_one_process_does(ray_session, tmp_path):
    """The same clusters, the same lists, the same recall, in domains that have a structure."""
    sizes, draw = [900, 700], torch.Generator().manual_seed(0)
    centres = torch.randn(30, 8, generator=draw)
    rows = [centres[torch.arange(n) % 30] + 0.3 * torch.randn(n, 8, generator=draw) for n in sizes]
    domain = torch.cat([torch.full((n,), index) for index, n in enumerate(sizes)])
    slot = torch.cat([torch.arange(n) for n in sizes])
    key = torch.nn.functional.normalize(torch.cat(rows), dim=1)
    local = LocalMemory(list(zip(NAMES, sizes, strict=True)), 8)
    local.push(domain, slot, key)
    actors = start_shards(BankSpec(sizes, 8, 3, 0.0, tmp_path, 1), 30.0)
    workers = Workers(1)
    member = ShardedMemory(actors, NAMES, workers.member(0), 65_536, 0, torch.device("cpu"), True)
    member.load(tmp_path, [], 0)
    member.push(domain, slot, key)
    for wanted in (Neighbourhood(20, 10, True, True, 100), Neighbourhood(20, 10, False, False, 100)):
        report = local.rebuild(wanted)
        assert member.rebuild(wanted) == report
        assert report["compared/one->one"] < 0.5 and 0.9 < report["recall/one->photo"] <= 1
        for memory in (member, local):
            memory.expect(domain, slot)
            memory.push(domain, slot, key)
        for a in (0, 1):
            found, expected = (
                [memory.candidates(a, slot[domain == a], b) for b in (0, 1)] for memory in (member, local)
            )
            for one, two in zip(found, expected, strict=True):
                assert torch.equal(one.keys, two.keys) and torch.equal(one.positive, two.positive)
