"""The memory bank's shards under test: small domains, the questions of a step, and what is to come of them."""

import torch

from tests.workers import Workers
from ucdr_ray.cluster.memory import ShardedMemory

NAMES, SIZES, DIM = ["one", "photo", "sketch"], [1, 37, 23], 8
WORKERS = 2


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


def own_rows(memory, domain, slot):
    """The bank's rows of the step's images."""
    return [memory.rows(a, slot[domain == a]) for a in domain.unique().tolist()]


def same(found, expected):
    return all(
        torch.equal(f.keys, e.keys) and torch.equal(f.positive, e.positive) and torch.equal(f.own, e.own)
        for f, e in zip(found, expected, strict=True)
    )


def clients(actors, negatives, copy):
    workers = Workers(WORKERS)
    device = torch.device("cpu")
    return [
        ShardedMemory(actors, NAMES, workers.member(rank), negatives, 0, device, copy)
        for rank in range(WORKERS)
    ]


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
