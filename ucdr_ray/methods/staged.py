"""What staged methods share: an encoder, its momentum copy, and contrast with the keys of neighbours in a memory bank.

The terms are those of DUDE (arXiv:2509.04193, sec. 3.3).
"""

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ucdr_ray.losses.infonce import info_nce
from ucdr_ray.method_settings import Contrastive
from ucdr_ray.methods.base import Batch, Losses, Stage, row_sum
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import Memory


class Staged(ABC):
    """A method: what is trained (`online`), its momentum copy (`target`), the stages and the step."""

    def __init__(
        self, encoder: Encoder, config: Contrastive, domains: int, precision: torch.dtype = torch.float32
    ) -> None:
        """`precision` is that of the encoders alone: similarities and losses are always float32."""
        self.online: nn.Module = encoder
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        self.config = config
        self.domains = domains
        self.precision = precision

    @abstractmethod
    def stages(self) -> list[Stage]:
        """In order, those of 0 epochs left out."""

    @abstractmethod
    def step(self, batch: Batch, stage: Stage, memory: Memory) -> Losses:
        """Losses of one batch; the bank holds the batch's newest keys afterwards, if the stage contrasts."""

    @torch.no_grad()
    def push(self, batch: Batch, memory: Memory) -> None:
        """The keys of the batch's other views into the bank."""
        memory.push(batch.domain, batch.slot, self._encode(self.target, batch.key))

    def contrast(self, query: Tensor, batch: Batch, stage: Stage, memory: Memory) -> dict[str, Tensor]:
        """The stage's contrastive terms.

        For a query q of image i, with the keys of a bank below the fraction line:
        L_aug   against the key of i's other view, bank of i's domain;
        L_in    against the keys of i's mutual neighbours in its domain, i itself left out;
        L_cross against the keys of i's mutual neighbours in another domain, mean over the other domains.

        Args:
            query: (B, D) unit rows.
        """
        terms = {name: query.new_zeros(()) for name in stage.weights if name in ("aug", "in", "cross")}
        for a in range(self.domains):
            mine = batch.domain == a
            q, slot = query[mine], batch.slot[mine]
            own = memory.candidates(a, slot, a)
            similarity = q @ own.keys.T
            terms["aug"] = terms["aug"] + self._loss(similarity, own.own, batch.global_rows)
            if stage.weights.get("in"):
                terms["in"] = terms["in"] + self._loss(similarity, own.positive, batch.global_rows, own.own)
            if stage.weights.get("cross"):
                for b in range(self.domains):
                    if b != a:
                        other = memory.candidates(a, slot, b)
                        loss = self._loss(q @ other.keys.T, other.positive, batch.global_rows)
                        terms["cross"] = terms["cross"] + loss / (self.domains - 1)
        return terms

    def _encode(self, encoder: nn.Module, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) float32 unit rows."""
        reduced = self.precision != torch.float32
        with torch.autocast(pixels.device.type, self.precision if reduced else None, enabled=reduced):
            return encoder(pixels)

    def _loss(self, similarity: Tensor, positive: Tensor, rows: int, ignore: Tensor | None = None) -> Tensor:
        return row_sum(info_nce(similarity, positive, self.config.temperature, ignore), rows)

    @torch.no_grad()
    def update_target(self) -> None:
        """Momentum: target <- m target + (1 - m) online, statistics of batch normalisation copied."""
        m = self.config.momentum
        online = dict(self.encoder.named_parameters())
        targets, sources = zip(
            *[(p, online[name]) for name, p in self.target.named_parameters()], strict=True
        )
        torch._foreach_lerp_(list(targets), list(sources), 1 - m)
        self.copy_statistics()

    def start_target(self) -> None:
        """The momentum copy begins as the encoder is now."""
        self.target.load_state_dict(self.encoder.state_dict())

    def extras(self) -> dict[str, nn.Module]:
        """What is trained beside the encoder, by name."""
        return {}

    @torch.no_grad()
    def copy_statistics(self) -> None:
        """The encoder's statistics of batch normalisation into the target."""
        for theirs, ours in zip(self.target.buffers(), self.encoder.buffers(), strict=True):
            theirs.copy_(ours)

    @property
    def encoder(self) -> Encoder:
        """The trained encoder, without any wrapper around it."""
        inner = getattr(self.online, "module", self.online)
        assert isinstance(inner, Encoder)
        return inner


def weighted(terms: dict[str, Tensor], stage: Stage) -> Losses:
    """The total of a stage's terms, each by its weight."""
    total = torch.stack([stage.weights[name] * term for name, term in terms.items()]).sum()
    return Losses(total, {name: term.detach() for name, term in terms.items()})
