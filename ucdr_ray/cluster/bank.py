"""A shard of the memory bank as a Ray actor.

Its contents have a version: how many pushes are in them. Each push reaches a shard as one numbered message from one
worker, so a message that comes twice changes nothing, and nobody reads half a push.
"""

import asyncio
import json
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from ucdr_ray.checkpoint import bank_parts, checkpoints, read_values
from ucdr_ray.cluster.graph_file import GraphFile
from ucdr_ray.cluster.wire import packed, unpacked
from ucdr_ray.errors import UserError
from ucdr_ray.neighbors.memory import Neighbourhood
from ucdr_ray.neighbors.parts import BankPart, read_parts, write_part
from ucdr_ray.neighbors.shard import Held, Shard

Arrays = tuple[np.ndarray, ...]


class Forgotten(Exception):
    """The shard was started anew in the middle of a search, and must be searched again."""


@dataclass(frozen=True)
class BankSpec:
    """What every shard of a run's bank is made of. `run` is the run's folder, which all nodes see."""

    sizes: list[int]
    dim: int
    count: int
    momentum: float
    run: Path
    threads: int


@dataclass(frozen=True)
class Answer:
    """What a shard says to a query, and of which version."""

    life: str  # another one after every start of the actor
    version: int | None  # None: started anew, rows of an unknown mixture of versions
    edges: dict[tuple[int, int], Arrays]  # (a, b) -> position among the queries, neighbour
    rows: dict[int, Arrays]  # domain -> slot, key, filled


class BankShard:
    """One shard. Where a call names an `attempt`, one of another attempt at training is ignored: its worker is dead."""

    def __init__(self, spec: BankSpec, index: int) -> None:
        # Ray hands out arrays that can't be written to, and nothing here writes to them.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        torch.set_num_threads(spec.threads)
        self._spec, self._index, self._life = spec, index, uuid.uuid4().hex
        self._shard = self._empty()
        self._file = GraphFile(spec.run / "bank", index, spec.count)
        self._version: int | None = 0
        self._attempt: int | None = None
        self._search = 0
        self._report: dict[str, float] = {}
        self._steps: set[tuple[str | int, ...]] = set()
        self._changed, self._one = asyncio.Condition(), asyncio.Lock()
        if ray.get_runtime_context().was_current_actor_reconstructed:
            self._version = None
            problem = self._recover()
            with open(spec.run / "bank" / "restarts.jsonl", "a") as file:
                file.write(json.dumps({"shard": index, "problem": problem}) + "\n")

    def _recover(self) -> str:
        """Take the rows of the newest checkpoint, if there is one; why not, if they can't be had.

        An actor that fails here would never come back. Without them it begins empty, and is filled as keys arrive.
        """
        for folder in checkpoints(self._spec.run / "checkpoints")[-1:]:
            try:
                shard = self._empty()
                read_parts(folder, bank_parts(read_values(folder)), shard.banks, shard.spans)
                self._shard = shard
            except (UserError, OSError) as error:
                return str(error)
        return ""

    def _empty(self) -> Shard:
        spec = self._spec
        return Shard(spec.sizes, spec.dim, self._index, spec.count, spec.momentum)

    async def ping(self) -> str:
        """Whether it lives, and which life that is."""
        return self._life

    async def load(self, attempt: int, folder: str, parts: Sequence[dict[str, Any]], version: int) -> str:
        """Rows of a checkpoint, or none, for a new attempt at training."""

        def read() -> Shard:
            shard = self._empty()
            if parts:
                read_parts(
                    Path(folder), [BankPart.model_validate(part) for part in parts], shard.banks, shard.spans
                )
            return shard

        shard = await asyncio.to_thread(read)
        async with self._changed:
            self._shard, self._attempt, self._version = shard, attempt, version
            self._search, self._report = 0, {}
            self._changed.notify_all()
        return self._life

    async def push(
        self, attempt: int, version: int, domain: np.ndarray, slot: np.ndarray, key: np.ndarray
    ) -> str:
        """The rows of this shard in one version."""
        if not self._belongs(attempt):
            return self._life
        await self._reached(version - 1)
        if self._version is None or self._version < version:
            self._shard.push(*map(torch.from_numpy, (domain, slot, key)))
            await self._set(version)
        return self._life

    async def refill(self, attempt: int, version: int, rows: Sequence[Arrays]) -> str:
        """All rows of this shard, (keys, filled) of each domain, from a worker that has a copy."""
        if self._belongs(attempt):
            for bank, (keys, filled) in zip(self._shard.banks, rows, strict=True):
                bank.keys.copy_(torch.from_numpy(keys))
                bank.filled.copy_(torch.from_numpy(filled))
            await self._set(version)
        return self._life

    async def query(
        self,
        attempt: int,
        version: int,
        search: int,
        asked: dict[int, np.ndarray],
        sample: dict[int, np.ndarray | None] | None,
    ) -> Answer:
        """Neighbours, from search number `search`, of queries; of version `version` - 1 or `version`.

        Args:
            asked: domain -> slots of queries.
            sample: domain -> slots whose rows are wanted, None: all; besides, come the neighbours' and the queries'
                own rows. Without it, no rows.
        """
        self._belongs(attempt)
        await self._reached(version - 1)
        async with self._changed:
            # One under way is another shard's second try, of which this worker knows nothing.
            await self._changed.wait_for(lambda: self._search >= 0)
        if self._search < search:
            raise Forgotten
        slots = {domain: torch.from_numpy(slot) for domain, slot in asked.items()}
        edges = self._shard.edges(slots)
        rows: dict[int, Arrays] = {}
        for domain, some in (sample or {}).items():
            if some is None:
                first, stop = self._shard.spans[domain]
                wanted = [torch.arange(first, stop)]
            else:
                wanted = [torch.from_numpy(some)] + ([slots[domain]] if domain in slots else [])
                wanted += [neighbour for (_, b), (_, neighbour) in edges.items() if b == domain]
            held = self._shard.rows(domain, torch.cat(wanted))
            rows[domain] = _arrays(held)
        found: dict[tuple[int, int], Arrays] = {
            pair: (position.numpy(), slot.numpy()) for pair, (position, slot) in edges.items()
        }
        return Answer(self._life, self._version, found, rows)

    async def save(self, folder: str, version: int) -> dict[str, Any]:
        """Write this shard's part of a checkpoint; its entry in the checkpoint's values."""
        await self._reached(version)
        file = f"bank-{self._index:05d}-of-{self._spec.count:05d}.safetensors"
        part = await asyncio.to_thread(write_part, Path(folder), file, self._shard.banks, self._shard.spans)
        return {"life": self._life, "part": part.model_dump()}

    async def drawn(self, version: int, domain: int, seed: int) -> tuple[str, np.ndarray, np.ndarray]:
        """Life, and this shard's share of a domain's sample for prototypes and of its exact sum, of a version."""
        await self._reached(version)
        sample = await asyncio.to_thread(self._shard.drawn, domain, seed)
        return self._life, sample.numpy(), self._shard.total(domain).numpy()

    # A search: its steps are those of `neighbors.shard.Shard`, all of them with the search's number.

    async def total(self, version: int) -> list[np.ndarray]:
        """This shard's share of each domain's exact sum."""
        await self._reached(version)
        return [self._shard.total(domain).numpy() for domain in range(len(self._spec.sizes))]

    async def begin(self, search: int, version: int, wanted: Neighbourhood, totals: list[np.ndarray]) -> str:
        """Search the rows of `version`; says which life it is that does."""
        await self._reached(version)
        self._report, self._search, self._steps = {}, -search, set()  # under way
        await self._work(search, self._shard.begin, wanted, [torch.from_numpy(total) for total in totals])
        return self._life

    async def step(self, search: int, name: str, *arguments: Any) -> Any:
        """A step: a method of the shard."""
        return packed(await self._work(search, getattr(self._shard, name), *map(unpacked, arguments)))

    async def once(self, search: int, name: str, peer: int, a: int, b: int, *arguments: Any) -> Any:
        """A step with a peer's rows or lists. Were it done again because Ray lost its answer, rows would be listed
        twice."""
        if (search, name, peer, a, b) in self._steps:
            raise Forgotten
        self._steps.add((search, name, peer, a, b))
        return await self.step(search, name, a, b, *arguments)

    async def named(self, search: int, a: int, b: int) -> Any:
        """For each shard, as a result of its own."""
        found = await self.step(search, "named", a, b)
        return found if len(found) > 1 else found[0]

    async def end(self, attempt: int, search: int, report: dict[str, float]) -> None:
        """Publish the new graphs, here and in a file that a successor finds them in."""
        await self._work(search, self._shard.end)
        await asyncio.to_thread(self._file.write, attempt, search, report, self._shard.graphs)
        async with self._changed:
            self._search, self._report = search, report
            self._changed.notify_all()

    async def report(self, attempt: int, search: int) -> dict[str, float]:
        """The report of a search, once it has ended."""
        self._belongs(attempt)
        async with self._changed:
            await self._changed.wait_for(lambda: self._search >= search)
        return self._report

    async def _work(self, search: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """One step of a search at a time, aside, so that calls are answered meanwhile."""
        async with self._one:
            if self._search != -search:
                raise Forgotten
            return await asyncio.to_thread(function, *arguments)

    def _belongs(self, attempt: int) -> bool:
        """Whether a call is of the present attempt. A shard that was started anew learns it from the first call."""
        if self._attempt is None:
            self._attempt = attempt
            if (found := self._file.read(attempt)) is not None:
                self._search, self._report, self._shard.graphs = found
        return attempt == self._attempt

    async def _reached(self, version: int) -> None:
        """Wait until the contents are of `version` at least. A shard started anew does not know, and does not wait."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._version is None or self._version >= version)

    async def _set(self, version: int) -> None:
        async with self._changed:
            self._version = version
            self._changed.notify_all()


def _arrays(held: Held) -> Arrays:
    return held.slot.numpy(), held.key.numpy(), held.filled.numpy()
