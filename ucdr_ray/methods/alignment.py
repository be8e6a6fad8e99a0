"""Staged alignment: DUDE (arXiv:2509.04193, sec. 3.3) without its generator.

From single images to their mutual neighbours inside the domain, then across domains. Stages are cumulative.
"""

import torch

from ucdr_ray.method_settings import AlignmentConfig
from ucdr_ray.methods.base import Batch, Losses, Stage, weighted
from ucdr_ray.methods.staged import Staged
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import Memory


class Alignment(Staged):
    """The contrastive stages alone."""

    def __init__(
        self, encoder: Encoder, config: AlignmentConfig, domains: int, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__(encoder, config, domains, precision)
        self.config: AlignmentConfig = config

    def stages(self) -> list[Stage]:
        """L_aug; then + L_in; then + L_cross. Stages of 0 epochs are left out."""
        c = self.config
        inside = {"in": c.weight_in} if c.weight_in > 0 else {}
        stages = [
            Stage("instance", c.stages.instance, {"aug": c.weight_aug}),
            Stage("in_domain", c.stages.in_domain, {"aug": c.weight_aug, "in": c.weight_in}, k_in=c.k_in),
            Stage(
                "cross_domain",
                c.stages.cross_domain,
                {"aug": c.weight_aug} | inside | {"cross": c.weight_cross},
                k_in=c.k_in if inside else None,
                k_cross=c.k_cross,
            ),
        ]
        return [stage for stage in stages if stage.epochs > 0]

    def step(self, batch: Batch, stage: Stage, memory: Memory) -> Losses:
        self.push(batch, memory)
        query = self._encode(self.online, batch.query)
        return weighted(self.contrast(query, batch, stage, memory), stage)
