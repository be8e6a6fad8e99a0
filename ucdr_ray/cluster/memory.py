"""The sharded bank behind the `Memory` that methods know.

Up to `bank.copy_limit_gb` each worker also keeps a copy of all rows on its device, made current by the keys that the
workers exchange at every step; the shards then answer with neighbours alone, and are where these are searched. Beyond,
the shards send rows as well: a sample of each bank, the queries' neighbours and the queries' own.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.cluster.bank import Answer, Forgotten
from ucdr_ray.cluster.neighbour_search import search_neighbours
from ucdr_ray.cluster.shards import Shards
from ucdr_ray.errors import JobError
from ucdr_ray.neighbors.bank import Bank
from ucdr_ray.neighbors.candidates import Candidates, assemble, negatives
from ucdr_ray.neighbors.memory import Neighbourhood
from ucdr_ray.neighbors.parts import BankPart, read_parts, span
from ucdr_ray.world import World

_TRIES = 64  # searches of one rebuild that may be begun anew because a shard died


class ShardedMemory:
    """One worker's client of the bank's actors.

    Every step one query goes to all shards as soon as its rows are `expect`ed, and is answered while keys are computed;
    every push is one message to each shard, from the worker whose turn that shard is (rank = shard modulo workers).
    A query is answered from the version before the step's push, which the step's own keys then bring up to date.

    Args:
        names: of the domains.
        copy: whether to keep a copy of all rows on `device`.
    """

    def __init__(
        self,
        shards: Shards,
        names: Sequence[str],
        world: World,
        max_negatives: int,
        seed: int,
        device: torch.device,
        copy: bool,
    ) -> None:
        self._shards, self._names, self._world, self._device = shards, list(names), world, device
        self._spec, self._seed, self._most = shards.spec, seed, max_negatives
        self._copy = [self._bank(rows) for rows in self._spec.sizes] if copy else None
        self.version, self._attempt, self._search = 0, 0, 0
        self._lives: dict[int, str] = {}
        self._sent: dict[Any, int] = {}  # pushes not yet confirmed
        self._open: dict[Any, int] = {}  # queries not yet answered
        self._asked: dict[int, Tensor] = {}
        self._samples: list[Tensor | None] = []
        self._answers: list[Answer] = []
        self._rows: list[
            tuple[Tensor, Bank]
        ] = []  # of each domain what the shards sent: slots and their rows

    def _bank(self, rows: int) -> Bank:
        return Bank(rows, self._spec.dim, self._spec.momentum, self._device)

    def expect(self, domain: Tensor, slot: Tensor) -> None:
        domain, slot, sizes = domain.cpu(), slot.cpu(), self._spec.sizes
        self._asked = {int(index): slot[domain == index] for index in domain.unique()}
        asked = {index: slots.numpy() for index, slots in self._asked.items()}
        self._samples = [
            negatives(rows, self._most, self._seed, self.version + 1, index)
            for index, rows in enumerate(sizes)
        ]
        if self._copy is not None and self._search == 0:
            return  # nothing that the shards could add
        for shard, actor in enumerate(self._shards.actors):
            sample = None if self._copy is not None else self._part_of_samples(shard)
            query = actor.query.remote(self._attempt, self.version + 1, self._search, asked, sample)
            self._open[query] = shard

    def _part_of_samples(self, shard: int) -> dict[int, np.ndarray | None]:
        parts: dict[int, np.ndarray | None] = {}
        for index, sample in enumerate(self._samples):
            first, stop = span(self._spec.sizes[index], shard, self._spec.count)
            parts[index] = None if sample is None else sample[(sample >= first) & (sample < stop)].numpy()
        return parts

    def push(self, domain: Tensor, slot: Tensor, key: Tensor) -> None:
        domain, slot, key = self._world.exchange(domain, slot, key)
        # Before this push is sent: until all workers have their answers, a shard can't be two versions ahead.
        asked, self._open, sent, self._sent = self._open, {}, self._sent, {}
        said = self._shards.get(asked | sent)
        self._answers = [said[query] for query in asked]
        for reference, shard in sent.items():
            self._meet(shard, said[reference])
        self.version += 1
        where, which, rows = domain.cpu(), slot.cpu(), key.cpu()
        for shard in range(self._world.rank, len(self._shards), self._world.size):
            spans = torch.tensor([span(n, shard, self._spec.count) for n in self._spec.sizes])
            mine = (which >= spans[where, 0]) & (which < spans[where, 1])
            message = (where[mine].numpy(), which[mine].numpy(), rows[mine].numpy())
            sent = self._shards.actors[shard].push.remote(self._attempt, self.version, *message)
            self._sent[sent] = shard
        if self._copy is not None:
            for index, bank in enumerate(self._copy):
                bank.push(slot[domain == index], key[domain == index])
        elif self._answers:
            self._rows = [
                self._fresh_rows(index, which[where == index], key[domain == index])
                for index in range(len(self._spec.sizes))
            ]

    def _fresh_rows(self, domain: int, slot: Tensor, key: Tensor) -> tuple[Tensor, Bank]:
        """The rows that the shards sent of a domain, with this version's keys: ascending slots (n,), a bank of n."""
        parts = [answer.rows[domain] for answer in self._answers]
        slots, keys, filled = (
            torch.from_numpy(np.concatenate([part[field] for part in parts])) for field in range(3)
        )
        behind = torch.cat([
            torch.full((len(part[0]),), answer.version != self.version)
            for part, answer in zip(parts, self._answers, strict=True)
        ])  # fmt: skip
        bank = self._bank(len(slots))
        bank.keys.copy_(keys)
        bank.filled.copy_(filled)
        if len(slots):
            place = torch.searchsorted(slots, slot).clamp(max=len(slots) - 1)
            new = (slots[place] == slot) & behind[place]
            bank.push(place[new].to(self._device), key[new.to(key.device)])
        return slots, bank

    def candidates(self, domain: int, slot: Tensor, other: int) -> Candidates:
        slot = slot.cpu()
        if not torch.equal(slot, self._asked.get(domain, slot[:0])):
            raise ValueError(f"candidates of domain {domain} for other rows than were expected")
        found = [answer.edges[domain, other] for answer in self._answers if (domain, other) in answer.edges]
        query, neighbour = (
            torch.from_numpy(np.concatenate([edges[side] for edges in found] or [np.zeros(0, np.int64)]))
            for side in (0, 1)
        )
        sample = self._samples[other]
        if self._copy is not None:
            held, bank = None, self._copy[other]
        else:
            held, bank = self._rows[other]
        if sample is None:
            column, keys = torch.arange(self._spec.sizes[other]), bank.keys
        else:
            column = torch.cat([sample, neighbour, slot] if domain == other else [sample, neighbour]).unique()
            place = column if held is None else torch.searchsorted(held, column)
            keys = bank.keys[place.to(self._device)]
        return assemble(column, keys, slot, query, neighbour, domain == other)

    def rebuild(self, wanted: Neighbourhood) -> dict[str, float]:
        self._settle()
        self._search += _TRIES
        self._answers, self._asked = [], {}
        if self._world.rank > 0:
            shard = self._world.rank % len(self._shards)
            report = self._shards.actors[shard].report.remote(self._attempt, self._search)
            return self._shards.get({report: shard})[report]
        for attempt in range(_TRIES):
            try:
                lives = [self._lives[shard] for shard in range(len(self._shards))]
                number = self._search + attempt
                return search_neighbours(
                    self._shards, self._names, wanted, self._attempt, number, self.version, lives
                )
            except Forgotten:
                for shard, life in enumerate(self._shards.all("ping")):
                    self._meet(shard, life)
        raise JobError(f"shards of the memory bank died {_TRIES} times during one search")

    def save(self, folder: Path) -> list[BankPart]:
        self._settle()
        while True:
            said = self._shards.all("save", str(folder.resolve()), self.version)
            # A shard that died just before has written rows of the last checkpoint: once more, if they can be mended.
            mended = [self._meet(shard, answer["life"]) for shard, answer in enumerate(said)]
            if not any(mended):
                return [BankPart.model_validate(answer["part"]) for answer in said]

    def load(self, folder: Path, parts: Sequence[BankPart], version: int) -> None:
        attempt = torch.tensor([uuid.uuid4().int >> 66], device=self._device)
        self._world.copy_first([attempt])
        self._attempt, self.version, self._search = int(attempt), version, 0
        self._sent, self._open, self._answers, self._lives = {}, {}, [], {}
        if self._world.rank == 0:
            values = [part.model_dump() for part in parts]
            lives = self._shards.all("load", self._attempt, str(folder.resolve()), values, version)
            self._lives = dict(enumerate(lives))
        if self._copy is not None:
            self._copy = [self._bank(rows) for rows in self._spec.sizes]
            if parts:
                read_parts(folder, parts, self._copy, [(0, rows) for rows in self._spec.sizes])
        self._world.barrier()

    def _settle(self) -> None:
        """Make sure of the pushes that were sent."""
        sent, self._sent = self._sent, {}
        for reference, life in self._shards.get(sent).items():
            self._meet(sent[reference], life)

    def _meet(self, shard: int, life: str) -> bool:
        """Take note of a shard's life; if it is a new one and there is a copy, give it back its rows, and say so."""
        known = self._lives.setdefault(shard, life)
        if life == known or self._copy is None:
            self._lives[shard] = life
            return False
        rows = []
        for bank in self._copy:
            first, stop = span(len(bank.keys), shard, self._spec.count)
            rows.append((bank.keys[first:stop].cpu().numpy(), bank.filled[first:stop].cpu().numpy()))
        refill = self._shards.actors[shard].refill.remote(self._attempt, self.version, rows)
        self._lives[shard] = self._shards.get({refill: shard})[refill]
        return True
