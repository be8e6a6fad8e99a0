"""When UEM's second stage begins: after the epochs that were set, or earlier, once prototypes are stable.

The paper sets the point by hand, and names that as its limitation (Wang, Du, Zhu, NeurIPS 2024, sec. 6).
"""

import torch
from torch import Tensor, nn

from ucdr_ray.method_settings import UemConfig


class Switch(nn.Module):
    """What is decided, and what it is decided by; in buffers, which a checkpoint holds."""

    ends: Tensor  # int64, epochs of the first stage
    calm: Tensor  # int64, stable renewals in a row

    def __init__(self, config: UemConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("ends", torch.tensor(config.stages.idse))
        self.register_buffer("calm", torch.tensor(0))

    @property
    def epochs(self) -> int:
        """Epochs of the first stage, as far as is known."""
        return int(self.ends)

    def look(self, epoch: int, stability: Tensor) -> None:
        """Judge the renewal at the beginning of an epoch (from 0) of the first stage, and perhaps end it with that.

        Args:
            stability: (K,) of each domain's prototypes, all of which must be stable.
        """
        c = self.config
        if c.switch == "epoch":
            return
        # A number that is none compares as not stable.
        stable = epoch >= c.stable_from * c.stages.idse and bool((stability >= c.stable_at).all())
        self.calm.copy_(self.calm + 1 if stable else torch.zeros_like(self.calm))
        if int(self.calm) >= c.stable_for:
            self.ends.clamp_(max=epoch + 1)
