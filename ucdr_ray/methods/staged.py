"""What staged methods share: an encoder, its momentum copy, and contrast with the keys of neighbours in a memory bank.

The terms are those of DUDE (arXiv:2509.04193, sec. 3.3).
"""

import torch
from torch import Tensor

from ucdr_ray.losses.infonce import info_nce
from ucdr_ray.method_settings import Contrastive
from ucdr_ray.methods.base import Batch, Method, Stage, row_sum
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import Memory


class Staged(Method):
    """A method whose `target` is a momentum copy, which makes the keys."""

    def __init__(
        self, encoder: Encoder, config: Contrastive, domains: int, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__(encoder, domains, precision)
        self.config = config

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

    @torch.no_grad()
    def copy_statistics(self) -> None:
        """The encoder's statistics of batch normalisation into the target."""
        for theirs, ours in zip(self.target.buffers(), self.encoder.buffers(), strict=True):
            theirs.copy_(ours)
