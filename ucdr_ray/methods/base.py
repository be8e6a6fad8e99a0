"""What every method is made of: stages as data, one step as code."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ucdr_ray.draws import Draws
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import Memory

CONTRASTIVE = {"aug", "in", "cross", "ince", "sn2m", "nearest"}


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
    """Weighted total to descend; for the log each unweighted term, and `measures`, which add up over the workers."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, Tensor] = field(default_factory=dict)


class Method(ABC):
    """What is trained (`online`), a copy of the encoder that is not (`target`), the stages and the step.

    Args:
        domains: how many.
        precision: that of the encoders alone; similarities and losses are always float32.
    """

    views = 2  # of each image in a batch; with one, `query` and `key` are the same
    extra_lr_factor = 1.0  # of what is trained beside the encoder: so many times faster than its head
    target_frozen = False  # the copy is in evaluation mode throughout, and so are its statistics

    def __init__(self, encoder: Encoder, domains: int, precision: torch.dtype = torch.float32) -> None:
        self.online: nn.Module = encoder
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        self.domains = domains
        self.precision = precision

    @abstractmethod
    def stages(self) -> list[Stage]:
        """In order, those of 0 epochs left out. Their epochs always add up to the same."""

    @abstractmethod
    def step(self, batch: Batch, stage: Stage, memory: Memory) -> Losses:
        """Losses of one batch; the bank holds the batch's newest keys afterwards, if the stage contrasts."""

    def begin_epoch(self, epoch: int, memory: Memory) -> dict[str, float]:
        """What is to be done before an epoch (from 0), all workers together, when the bank is filled; for the log."""
        return {}

    @abstractmethod
    def update_target(self) -> None:
        """Let the copy follow the encoder, after each step."""

    @abstractmethod
    def copy_statistics(self) -> None:
        """The encoder's statistics of batch normalisation into the copy, if it follows."""

    def start_target(self) -> None:
        """The copy begins as the encoder is now."""
        self.target.load_state_dict(self.encoder.state_dict())

    def extras(self) -> dict[str, nn.Module]:
        """What a checkpoint holds beside the encoder and its copy, by name: what is trained, and what is remembered."""
        return {}

    @property
    def encoder(self) -> Encoder:
        """The trained encoder, without any wrapper around it."""
        inner = getattr(self.online, "module", self.online)
        assert isinstance(inner, Encoder)
        return inner

    def _encode(self, encoder: nn.Module, pixels: Tensor, *asked: bool) -> Any:
        """(B, 3, S, S) -> (B, D) float32 unit rows, or whatever else the encoder is asked for."""
        reduced = self.precision != torch.float32
        with torch.autocast(pixels.device.type, self.precision if reduced else None, enabled=reduced):
            return encoder(pixels, *asked)


def row_sum(value: Tensor, rows: float) -> Tensor:
    """Sum of per-row losses over `rows`: a mean in which rows without a positive count as zero."""
    return value.sum() / rows if len(value) else torch.zeros((), device=value.device)


def weighted(terms: dict[str, Tensor], stage: Stage) -> Losses:
    """The total of a stage's terms, each by its weight."""
    total = torch.stack([stage.weights[name] * term for name, term in terms.items()]).sum()
    return Losses(total, {name: term.detach() for name, term in terms.items()})
