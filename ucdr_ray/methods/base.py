"""What every method is made of: stages as data, one step as code."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ucdr_ray.draws import Draws

CONTRASTIVE = {"aug", "in", "cross"}


@dataclass(frozen=True)
class Stage:
    """A stretch of training with fixed losses.

    `weights` maps a loss's name to its weight; `k_in`, `k_cross` say which neighbours are kept, None: none.
    """

    name: str
    epochs: int
    weights: dict[str, float]
    k_in: int | None = None
    k_cross: int | None = None

    @property
    def latents(self) -> bool:
        """Whether its batches are to bring the images' latents."""
        return "od" in self.weights

    @property
    def searches(self) -> bool:
        """Whether neighbours are searched before each epoch."""
        return self.k_in is not None or self.k_cross is not None

    @property
    def contrasts(self) -> bool:
        """Whether the stage compares embeddings with the keys of a memory bank."""
        return not CONTRASTIVE.isdisjoint(self.weights)


@dataclass
class Batch:
    """One worker's part of a step: two views of images of K domains, no labels.

    `global_rows` counts the images of the step over all workers: losses are sums over this worker's rows divided
    by it, so that adding up the workers gives the same number however the rows were shared out.
    """

    query: Tensor  # (B, 3, S, S) float32 in [0, 1]
    key: Tensor  # (B, 3, S, S), the other view
    domain: Tensor  # (B,) int64
    slot: Tensor  # (B,) int64, row of the image in its domain
    global_rows: int
    # For methods with a generator.
    latents: Tensor | None = None  # (B, V, 2, C, s, s): mean and log-variance, as the image is and flipped
    draws: Draws = field(default_factory=lambda: Draws(0, 0, torch.zeros(0, dtype=torch.int64)))
    step: int = 0  # of the whole run


@dataclass
class Losses:
    """Weighted total to descend, and each unweighted term for the log."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


def row_sum(value: Tensor, rows: int) -> Tensor:
    """Sum of per-row losses over `rows`: a mean in which rows without a positive count as zero."""
    return value.sum() / rows if len(value) else torch.zeros((), device=value.device)
