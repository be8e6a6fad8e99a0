"""The memory behind a method: keys of all images, and who is whose neighbour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ucdr_ray.neighbors.approximate import Clustered, Quality, approximate_graphs
from ucdr_ray.neighbors.bank import Bank
from ucdr_ray.neighbors.candidates import Candidates, assemble, columns, negatives
from ucdr_ray.neighbors.centre import centred
from ucdr_ray.neighbors.mutual import Graph, neighbour_graphs
from ucdr_ray.neighbors.parts import BankPart, read_parts, write_part
from ucdr_ray.neighbors.prototypes import learnt_from

Exchange = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Neighbourhood:
    """Which neighbours to search for.

    Args:
        k_in: neighbours inside each domain; None: none.
        k_cross: neighbours across each pair of domains; None: none.
        mutual: keep only pairs that name each other.
        centre: subtract each domain's mean key (and renormalise) before searching across domains; a domain of one
            image stays as it is.
        exact_up_to: rows of a domain up to which the search is exact, of two the square root of their product; None:
            always.
    """

    k_in: int | None
    k_cross: int | None
    mutual: bool = True
    centre: bool = False
    exact_up_to: int | None = None

    def approximately(self, rows: int, others: int) -> bool:
        """Whether neighbours of so many rows in so many others are to be searched approximately."""
        return self.exact_up_to is not None and rows * others > self.exact_up_to**2

    @property
    def centred_across(self) -> bool:
        """Whether any domain is centred at all."""
        return self.centre and self.k_cross is not None


class Memory(Protocol):
    """What training may ask; it can't tell where the rows lie.

    Every push is a version, counted from 1. What `candidates` gives is of the newest one.
    """

    version: int

    def expect(self, domain: Tensor, slot: Tensor) -> None:
        """Say that the next push, and the questions after it, will be about these rows (B,), (B,)."""

    def push(self, domain: Tensor, slot: Tensor, key: Tensor) -> None:
        """Store the batch's newest keys: (B,), (B,), (B, D)."""

    def candidates(self, domain: int, slot: Tensor, other: int) -> Candidates:
        """Keys of domain `other` for the queries `slot` (B,) of `domain`, rows that were expected."""

    def rows(self, domain: int, slot: Tensor) -> Tensor:
        """The newest keys (B, D) of rows `slot` (B,) of `domain` that were expected."""

    def drawn(self, domain: int, seed: int) -> tuple[Tensor, Tensor]:
        """A sample (n, D) of a domain's rows and the mean (D,) of all: what `Prototypes.fit` learns from.

        Between steps, one worker for all.
        """

    def rebuild(self, wanted: Neighbourhood) -> dict[str, float]:
        """Search all neighbours anew.

        Returns:
            `share/a->b` (rows of a with at least one neighbour in b, 0..1) and `degree/a->b` (mean neighbours a row)
            per ordered pair.
        """

    def save(self, folder: Path) -> list[BankPart]:
        """Write all rows as part files into `folder`, one worker for all."""

    def load(self, folder: Path, parts: Sequence[BankPart], version: int) -> None:
        """Take the rows of part files, and forget all else; no parts: empty banks. All workers together.

        Raises:
            UserError: missing or damaged parts.
        """


class LocalMemory:
    """All banks and graphs in this process.

    Args:
        domains: name and number of images of each domain.
        dim: dimension D of a key.
        max_negatives: rows of one bank in `candidates`; a larger bank gives its neighbours and a fresh sample.
        exchange: joins the workers' (domain, slot, key) so that every worker's copy stays equal; None: one worker.
        seed: seed of the samples.
        momentum: as of `Bank`.

    Memory grows with images x D on every worker.
    """

    def __init__(
        self,
        domains: Sequence[tuple[str, int]],
        dim: int,
        max_negatives: int = 65_536,
        exchange: Exchange | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        momentum: float = 0.0,
    ) -> None:
        self.names = [name for name, _ in domains]
        self.banks = [Bank(rows, dim, momentum, device) for _, rows in domains]
        self.graphs: dict[tuple[int, int], Graph] = {}
        self.max_negatives = max_negatives
        self.device = device
        self.version = 0
        self._exchange = exchange
        self._seed = seed

    def expect(self, domain: Tensor, slot: Tensor) -> None:
        pass

    def push(self, domain: Tensor, slot: Tensor, key: Tensor) -> None:
        if self._exchange is not None:
            domain, slot, key = self._exchange(domain, slot, key)
        for index, bank in enumerate(self.banks):
            mine = domain == index
            bank.push(slot[mine], key[mine])
        self.version += 1

    def candidates(self, domain: int, slot: Tensor, other: int) -> Candidates:
        slot, bank = slot.cpu(), self.banks[other]
        query, neighbour = self._edges(domain, slot, other)
        sample = negatives(len(bank.keys), self.max_negatives, self._seed, self.version, other)
        column = columns(len(bank.keys), sample, slot, neighbour, domain == other)
        keys = bank.keys if sample is None else bank.keys[column.to(bank.keys.device)]
        return assemble(column, keys, slot, query, neighbour, domain == other)

    def rows(self, domain: int, slot: Tensor) -> Tensor:
        keys = self.banks[domain].keys
        return keys[slot.to(keys.device)]

    def drawn(self, domain: int, seed: int) -> tuple[Tensor, Tensor]:
        return learnt_from(self.banks[domain].keys, seed)

    def _edges(self, domain: int, slot: Tensor, other: int) -> tuple[Tensor, Tensor]:
        """(E,) position in `slot` and (E,) neighbour."""
        graph = self.graphs.get((domain, other))
        if graph is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        return graph.edges(slot)

    def rebuild(self, wanted: Neighbourhood) -> dict[str, float]:
        report: dict[str, float] = {}
        self.graphs = {}
        keys = [bank.keys for bank in self.banks]
        across = [centred(key) for key in keys] if wanted.centred_across else keys

        @cache
        def clustered(domain: int, inside: bool) -> Clustered:
            return Clustered.of((keys if inside else across)[domain], self._seed + domain)

        def search(a: int, b: int, k: int) -> tuple[Graph, Graph]:
            if not wanted.approximately(len(keys[a]), len(keys[b])):
                one, two = (keys[a], None) if a == b else (across[a], across[b])
                return neighbour_graphs(one, two, k, wanted.mutual)
            inside = a == b or not wanted.centred_across
            other = None if a == b else clustered(b, inside)
            forth, back, quality = approximate_graphs(
                clustered(a, inside), other, k, wanted.mutual, self._seed
            )
            report.update(told(self.names[a], self.names[b], quality))
            return forth, back

        for a in range(len(keys)):
            if wanted.k_in is not None:
                self.graphs[a, a] = search(a, a, wanted.k_in)[0]
            for b in range(a + 1, len(keys)):
                if wanted.k_cross is not None:
                    self.graphs[a, b], self.graphs[b, a] = search(a, b, wanted.k_cross)
        for (a, b), graph in self.graphs.items():
            degrees = graph.degrees()
            with_any, edges = int((degrees > 0).sum()), int(degrees.sum())
            report |= sparsity(self.names[a], self.names[b], with_any, edges, len(degrees))
        return report

    def save(self, folder: Path) -> list[BankPart]:
        return [write_part(folder, "bank.safetensors", self.banks, self._spans())]

    def load(self, folder: Path, parts: Sequence[BankPart], version: int) -> None:
        self.version, self.graphs = version, {}
        for bank in self.banks:
            bank.keys.zero_()
            bank.filled.zero_()
        if parts:
            read_parts(folder, parts, self.banks, self._spans())

    def _spans(self) -> list[tuple[int, int]]:
        return [(0, len(bank.keys)) for bank in self.banks]


def sparsity(a: str, b: str, with_any: int, edges: int, rows: int) -> dict[str, float]:
    """The report's lines for the graph a -> b of some rows, of which some have any neighbour."""
    return {f"share/{a}->{b}": with_any / max(rows, 1), f"degree/{a}->{b}": edges / max(rows, 1)}


def told(a: str, b: str, quality: Quality) -> dict[str, float]:
    """The report's lines for an approximate search between two domains, or inside one."""
    lines = {f"compared/{a}->{b}": quality.compared}
    return lines | ({f"recall/{a}->{b}": quality.recall.share} if isfinite(quality.recall.share) else {})
