"""The memory bank of one domain, or a stretch of it: one row per image, row number = the image's slot."""

import torch
from torch import Tensor


class Bank:
    """Keys of images, under one of two rules.

    Args:
        rows: how many.
        dim: dimension D of a key.
        momentum: 0: a row is the newest key (DUDE). beta > 0: it is averaged, m <- beta m + (1 - beta) z, and brought
            back to unit length (UEM, Eq. 5); the first key of a row is taken as it is.

    `keys` is (rows, D) float32; `filled` (rows,) bool says which rows were ever written.
    """

    def __init__(
        self, rows: int, dim: int, momentum: float = 0.0, device: torch.device | str = "cpu"
    ) -> None:
        self.keys = torch.zeros(rows, dim, device=device)
        self.filled = torch.zeros(rows, dtype=torch.bool, device=device)
        self.momentum = momentum

    def push(self, slot: Tensor, key: Tensor) -> None:
        """Write keys (B, D) to slots (B,). A slot named twice gets its keys in their order.

        Raises:
            IndexError: a slot outside 0..rows-1.
        """
        if len(slot) == 0:
            return
        if int(slot.min()) < 0 or int(slot.max()) >= len(self.keys):
            raise IndexError(
                f"slots {int(slot.min())}..{int(slot.max())} outside the bank's 0..{len(self.keys) - 1}"
            )
        # Assignment with repeated indices has no defined order: one round for each repeat.
        ordered, order = slot.sort(stable=True)
        first = torch.searchsorted(ordered, ordered)
        repeat = torch.arange(len(slot), device=slot.device) - first
        if self.momentum == 0:
            last = torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])
            self._write(ordered[last], key[order[last]])
        else:
            for turn in range(int(repeat.max()) + 1):
                self._write(ordered[repeat == turn], key[order[repeat == turn]])

    def _write(self, slot: Tensor, key: Tensor) -> None:
        """Write keys to slots that differ."""
        key = key.to(self.keys.dtype)
        if self.momentum:
            mixed = self.momentum * self.keys[slot] + (1 - self.momentum) * key
            mixed = torch.nn.functional.normalize(mixed, dim=1)
            key = torch.where(self.filled[slot][:, None], mixed, key)
        self.keys[slot] = key
        self.filled[slot] = True
