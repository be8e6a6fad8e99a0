"""The memory bank of one domain: one row per image, row number = the image's slot."""

import torch
from torch import Tensor


class Bank:
    """Newest key of every image of a domain (DUDE's rule: overwrite).

    Args:
        rows: images in the domain.
        dim: dimension D of a key.

    `keys` is (rows, D) float32; `filled` (rows,) bool says which rows were ever written.
    """

    def __init__(self, rows: int, dim: int, device: torch.device | str = "cpu") -> None:
        self.keys = torch.zeros(rows, dim, device=device)
        self.filled = torch.zeros(rows, dtype=torch.bool, device=device)

    def push(self, slot: Tensor, key: Tensor) -> None:
        """Write keys (B, D) to slots (B,); of a slot named twice the last key stays.

        Raises:
            IndexError: a slot outside 0..rows-1.
        """
        if len(slot) == 0:
            return
        if int(slot.min()) < 0 or int(slot.max()) >= len(self.keys):
            raise IndexError(
                f"slots {int(slot.min())}..{int(slot.max())} outside the bank's 0..{len(self.keys) - 1}"
            )
        # Assignment with repeated indices has no defined order: keep the last of each slot first.
        newest = torch.full((len(self.keys),), -1, dtype=torch.int64, device=slot.device)
        newest.scatter_reduce_(0, slot, torch.arange(len(slot), device=slot.device), "amax")
        last = newest[slot] == torch.arange(len(slot), device=slot.device)
        self.keys[slot[last]] = key[last].to(self.keys.dtype)
        self.filled[slot[last]] = True

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the bank's tensors, for a checkpoint."""
        return {"keys": self.keys.clone(), "filled": self.filled.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: another number of rows or another dimension.
        """
        if state["keys"].shape != self.keys.shape:
            raise ValueError(f"bank of shape {tuple(state['keys'].shape)}, expected {tuple(self.keys.shape)}")
        self.keys.copy_(state["keys"])
        self.filled.copy_(state["filled"])
