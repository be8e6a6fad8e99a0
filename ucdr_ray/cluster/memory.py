"""The sharded bank behind the `Memory` that methods know.

Up to `bank.copy_limit_gb` each worker also keeps a copy of all rows on its device, made current by the keys that the
workers exchange at every step; the shards then answer with neighbours alone, and are where these are searched. Beyond,
the shards send rows as well: a sample of each bank, the queries' neighbours and the queries' own.
"""

import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
from ucdr_ray.neighbors.candidates import Candidates, assemble, columns, negatives
from ucdr_ray.neighbors.centre import mean
from ucdr_ray.neighbors.memory import Neighbourhood
from ucdr_ray.neighbors.parts import BankPart, read_parts, span
from ucdr_ray.neighbors.prototypes import learnt_from
from ucdr_ray.world import World

_TRIES = 64  # searches of one rebuild that may be begun anew because a shard died


@dataclass(frozen=True)
class _Rows:
    """Rows that shards sent of a domain: ascending slots (n,), a bank of n, and the version (n,) each row is of."""

    slots: Tensor
    bank: Bank
    version: Tensor

    def renew(self, slot: Tensor, key: Tensor, version: int) -> None:
        """Bring them up to `version` by its keys; a shard that had that push already is left alone."""
        if len(self.slots) and len(slot):
            place = torch.searchsorted(self.slots, slot).clamp(max=len(self.slots) - 1)
            new = (self.slots[place] == slot) & (self.version[place] != version)
            device = key.device
            self.bank.push(place[new].to(device), key[new.to(device)])


@dataclass(frozen=True)
class _Said:
    """What a step knows of the shards: of each domain the sampled slots (None: all), answers, and rows of a domain."""

    samples: list[Tensor | None]
    answers: list[Answer]
    rows: list[_Rows]


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
        # Calls to actors take milliseconds to send: that, too, is done while the step computes.
        self._aside = ThreadPoolExecutor(1, "bank")
        self._open: Future[_Said] | None = None  # the step's question
        self._sent: Future[dict[Any, int]] | None = None  # the last push
        self._asked: dict[int, Tensor] = {}
        self._said = _Said([], [], [])

    def _bank(self, rows: int) -> Bank:
        return Bank(rows, self._spec.dim, self._spec.momentum, self._device)

    def expect(self, domain: Tensor, slot: Tensor) -> None:
        domain, slot = domain.cpu(), slot.cpu()
        self._asked = {int(index): slot[domain == index] for index in domain.unique()}
        self._open = self._aside.submit(self._ask, self._asked, self.version + 1)

    def _ask(self, slots: dict[int, Tensor], version: int) -> "_Said":
        """What the shards say to the queries of the step that makes `version`."""
        self._settle()
        samples = [
            negatives(rows, self._most, self._seed, version, index)
            for index, rows in enumerate(self._spec.sizes)
        ]
        if self._copy is not None and self._search == 0:
            return _Said(samples, [], [])  # nothing that the shards could add
        asked = {index: queries.numpy() for index, queries in slots.items()}
        calls = {
            actor.query.remote(
                self._attempt,
                version,
                self._search,
                asked,
                None if self._copy is not None else self._part_of(samples, shard),
            ): shard
            for shard, actor in enumerate(self._shards.actors)
        }
        answers = list(self._shards.get(calls).values())
        rows = [] if self._copy is not None else [self._joined(d, answers) for d in range(len(samples))]
        return _Said(samples, answers, rows)

    def _part_of(self, samples: list[Tensor | None], shard: int) -> dict[int, np.ndarray | None]:
        parts: dict[int, np.ndarray | None] = {}
        for index, sample in enumerate(samples):
            first, stop = span(self._spec.sizes[index], shard, self._spec.count)
            parts[index] = None if sample is None else sample[(sample >= first) & (sample < stop)].numpy()
        return parts

    def _joined(self, domain: int, answers: list[Answer]) -> "_Rows":
        parts = [answer.rows[domain] for answer in answers]
        slots, keys, filled = (
            torch.from_numpy(np.concatenate([part[field] for part in parts])) for field in range(3)
        )
        versions = [-1 if answer.version is None else answer.version for answer in answers]
        version = torch.tensor(versions).repeat_interleave(torch.tensor([len(part[0]) for part in parts]))
        bank = self._bank(0)
        bank.keys, bank.filled = keys.to(self._device), filled.to(self._device)
        return _Rows(slots, bank, version)

    def push(self, domain: Tensor, slot: Tensor, key: Tensor) -> None:
        domain, slot, key = self._world.exchange(domain, slot, key)
        # Before this push is sent: until all workers have their answers, a shard can't be two versions ahead.
        if self._open is not None:
            self._said, self._open = self._open.result(), None
        else:
            self._settle()
        self.version += 1
        where, which = domain.cpu(), slot.cpu()
        self._sent = self._aside.submit(self._send, where, which, key.cpu(), self.version)
        if self._copy is not None:
            for index, bank in enumerate(self._copy):
                bank.push(slot[domain == index], key[domain == index])
        for index, rows in enumerate(self._said.rows):
            rows.renew(which[where == index], key[domain == index], self.version)

    def _send(self, domain: Tensor, slot: Tensor, key: Tensor, version: int) -> dict[Any, int]:
        """One message to each shard whose turn is this worker's."""
        sent = {}
        for shard in range(self._world.rank, len(self._shards), self._world.size):
            spans = torch.tensor([span(n, shard, self._spec.count) for n in self._spec.sizes])
            mine = (slot >= spans[domain, 0]) & (slot < spans[domain, 1])
            message = (domain[mine].numpy(), slot[mine].numpy(), key[mine].numpy())
            sent[self._shards.actors[shard].push.remote(self._attempt, version, *message)] = shard
        return sent

    def candidates(self, domain: int, slot: Tensor, other: int) -> Candidates:
        slot = slot.cpu()
        if not torch.equal(slot, self._asked.get(domain, slot[:0])):
            raise ValueError(f"candidates of domain {domain} for other rows than were expected")
        answers = self._said.answers
        found = [answer.edges[domain, other] for answer in answers if (domain, other) in answer.edges]
        query, neighbour = (
            torch.from_numpy(np.concatenate([edges[side] for edges in found] or [np.zeros(0, np.int64)]))
            for side in (0, 1)
        )
        sample = self._said.samples[other]
        if self._copy is not None:
            held, bank = None, self._copy[other]
        else:
            held, bank = self._said.rows[other].slots, self._said.rows[other].bank
        column = columns(self._spec.sizes[other], sample, slot, neighbour, domain == other)
        if sample is None:
            keys = bank.keys
        else:
            place = column if held is None else torch.searchsorted(held, column)
            keys = bank.keys[place.to(self._device)]
        return assemble(column, keys, slot, query, neighbour, domain == other)

    def rows(self, domain: int, slot: Tensor) -> Tensor:
        if self._copy is not None:
            return self._copy[domain].keys[slot.to(self._device)]
        held = self._said.rows[domain]
        return held.bank.keys[torch.searchsorted(held.slots, slot.cpu()).to(self._device)]

    def drawn(self, domain: int, seed: int) -> tuple[Tensor, Tensor]:
        self._settle()
        if self._copy is not None:
            return learnt_from(self._copy[domain].keys, seed)
        lives, samples, totals = zip(*self._shards.all("drawn", self.version, domain, seed), strict=True)
        for shard, life in enumerate(lives):
            self._meet(shard, life)
        # Shards hold ascending slots.
        sample = torch.from_numpy(np.concatenate(samples)).to(self._device)
        total = torch.from_numpy(np.sum(totals, axis=0)).to(self._device)
        return sample, mean(total, self._spec.sizes[domain])

    def rebuild(self, wanted: Neighbourhood) -> dict[str, float]:
        self._settle()
        self._search += _TRIES
        self._said, self._asked = _Said([], [], []), {}
        if self._world.rank > 0:
            # Of all: one that has not ended its search yet can't be asked.
            return self._shards.all("report", self._attempt, self._search)[0]
        for attempt in range(_TRIES):
            try:
                lives = [self._lives[shard] for shard in range(len(self._shards))]
                number = self._search + attempt
                return search_neighbours(
                    self._shards, self._names, wanted, self._attempt, number, self.version, lives, self._seed
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
        self._sent, self._open, self._said, self._lives = None, None, _Said([], [], []), {}
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
        """Make sure of the last push."""
        if self._sent is not None:
            sent, self._sent = self._sent.result(), None
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
