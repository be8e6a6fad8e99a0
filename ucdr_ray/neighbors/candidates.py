"""What a batch is compared with: the keys of a bank, or of a sample of it, and which of them are neighbours."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The keys that a batch of B queries is compared with."""

    keys: Tensor  # (M, D) unit rows
    positive: Tensor  # (B, M) bool, the queries' neighbours
    own: Tensor  # (B, M) bool, each query's own key (none across domains)


def negatives(rows: int, most: int, seed: int, version: int, domain: int) -> Tensor | None:
    """Slots (most,) drawn for one version, without repeats; None: the domain is small enough to take all."""
    if rows <= most:
        return None
    draw = np.random.default_rng([seed, version, domain])
    return torch.from_numpy(draw.choice(rows, most, replace=False, shuffle=False))


def columns(rows: int, sample: Tensor | None, slot: Tensor, neighbour: Tensor, inside: bool) -> Tensor:
    """Ascending slots (M,) that queries `slot` are compared with: all, or a sample, neighbours and own rows."""
    if sample is None:
        return torch.arange(rows)
    return torch.cat([sample, neighbour, slot] if inside else [sample, neighbour]).unique()


def assemble(
    column: Tensor, keys: Tensor, slot: Tensor, query: Tensor, neighbour: Tensor, inside: bool
) -> Candidates:
    """Candidates of queries `slot` (B,): keys (M, D) of slots `column` (M,) ascending, edges query -> neighbour."""
    positive = torch.zeros(len(slot), len(column), dtype=torch.bool)
    positive[query, torch.searchsorted(column, neighbour)] = True
    own = torch.zeros(len(slot), len(column), dtype=torch.bool)
    if inside:
        own[torch.arange(len(slot)), torch.searchsorted(column, slot)] = True
    return Candidates(keys, positive.to(keys.device), own.to(keys.device))
