"""The memory behind a method: keys of all images, and who is whose neighbour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ucdr_ray.neighbors.bank import Bank
from ucdr_ray.neighbors.mutual import Graph, neighbour_graphs

Exchange = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Candidates:
    """The keys that a batch of B queries is compared with."""

    keys: Tensor  # (M, D) unit rows
    positive: Tensor  # (B, M) bool, the queries' neighbours
    own: Tensor  # (B, M) bool, each query's own key (none across domains)


class Memory(Protocol):
    """What a method may ask; it can't tell where the rows lie."""

    def push(self, domain: Tensor, slot: Tensor, key: Tensor) -> None:
        """Store the batch's newest keys: (B,), (B,), (B, D)."""

    def candidates(self, domain: int, slot: Tensor, other: int) -> Candidates:
        """Keys of domain `other` for the queries `slot` (B,) of `domain`."""

    def rebuild(self, k_in: int | None, k_cross: int | None, mutual: bool, centre: bool) -> dict[str, float]:
        """Search all neighbours anew; report sparsity per ordered domain pair."""


class LocalMemory:
    """All banks and graphs in this process.

    Args:
        domains: name and number of images of each domain.
        dim: dimension D of a key.
        max_negatives: rows of one bank in `candidates`; a larger bank gives its neighbours and a fresh sample.
        exchange: joins the workers' (domain, slot, key) so that every worker's copy stays equal; None: one worker.
        seed: seed of the samples.

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
    ) -> None:
        self.names = [name for name, _ in domains]
        self.banks = [Bank(rows, dim, device) for _, rows in domains]
        self.graphs: dict[tuple[int, int], Graph] = {}
        self.max_negatives = max_negatives
        self.device = device
        self.version = 0
        self._exchange = exchange
        self._seed = seed

    def push(self, domain: Tensor, slot: Tensor, key: Tensor) -> None:
        if self._exchange is not None:
            domain, slot, key = self._exchange(domain, slot, key)
        for index, bank in enumerate(self.banks):
            mine = domain == index
            bank.push(slot[mine], key[mine])
        self.version += 1

    def candidates(self, domain: int, slot: Tensor, other: int) -> Candidates:
        bank = self.banks[other]
        graph = self.graphs.get((domain, other))
        rows = len(bank.keys)
        if graph is None:
            query = neighbour = torch.empty(0, dtype=torch.int64)
        else:
            query, neighbour = graph.edges(slot.cpu())
        if rows <= self.max_negatives:
            column, keys = torch.arange(rows), bank.keys
        else:
            generator = torch.Generator().manual_seed(hash((self._seed, self.version, domain, other)) % 2**63)
            sample = torch.randperm(rows, generator=generator)[: self.max_negatives]
            needed = [sample, neighbour, slot.cpu()] if domain == other else [sample, neighbour]
            column = torch.cat(needed).unique()
            keys = bank.keys[column.to(bank.keys.device)]
        positive = torch.zeros(len(slot), len(column), dtype=torch.bool)
        positive[query, torch.searchsorted(column, neighbour)] = True
        own = torch.zeros(len(slot), len(column), dtype=torch.bool)
        if domain == other:
            own[torch.arange(len(slot)), torch.searchsorted(column, slot.cpu())] = True
        return Candidates(keys, positive.to(self.device), own.to(self.device))

    def rebuild(self, k_in: int | None, k_cross: int | None, mutual: bool, centre: bool) -> dict[str, float]:
        """Search all neighbours anew.

        Args:
            k_in: neighbours inside each domain; None: none.
            k_cross: neighbours across each pair of domains; None: none.
            mutual: keep only pairs that name each other.
            centre: subtract each domain's mean key (and renormalise) before searching across domains; a domain of
                one image stays as it is.

        Returns:
            `share/a->b` (rows of a with at least one neighbour in b, 0..1) and `degree/a->b` per ordered pair.
        """
        report: dict[str, float] = {}
        self.graphs = {}
        keys = [bank.keys.cpu() for bank in self.banks]
        # A single key is its own mean: nothing would be left of it.
        shifted = [
            torch.nn.functional.normalize(key - key.mean(0), dim=1) if centre and len(key) > 1 else key
            for key in keys
        ]
        for a in range(len(keys)):
            if k_in is not None:
                self.graphs[a, a] = neighbour_graphs(keys[a], None, k_in, mutual)[0]
            for b in range(a + 1, len(keys)):
                if k_cross is not None:
                    there, back = neighbour_graphs(shifted[a], shifted[b], k_cross, mutual)
                    self.graphs[a, b], self.graphs[b, a] = there, back
        for (a, b), graph in self.graphs.items():
            pair = f"{self.names[a]}->{self.names[b]}"
            report[f"share/{pair}"] = graph.share()
            report[f"degree/{pair}"] = graph.mean_degree()
        return report

    def state_dict(self) -> dict[str, Tensor]:
        """All banks as flat tensors, for a checkpoint; neighbours are searched anew from them."""
        state = {"version": torch.tensor(self.version)}
        for index, bank in enumerate(self.banks):
            state |= {f"bank.{index}.{name}": value for name, value in bank.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave; ValueError where the domains' sizes differ."""
        self.version = int(state["version"])
        for index, bank in enumerate(self.banks):
            bank.load_state_dict({name: state[f"bank.{index}.{name}"] for name in ("keys", "filled")})
        self.graphs = {}
