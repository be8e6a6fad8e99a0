"""What several workers do together; with one worker, nothing."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


class World:
    """Rank and size of the process group (one process without one), and the collectives that training needs."""

    def __init__(self) -> None:
        ready = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if ready else 0
        self.size = dist.get_world_size() if ready else 1

    def exchange(self, domain: Tensor, slot: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Every worker's (domain (B,), slot (B,), key (B, D)), joined in rank order. B may differ by worker."""
        if self.size == 1:
            return domain, slot, key
        where = torch.stack([domain, slot], dim=1)
        count = torch.tensor([len(slot)], device=slot.device)
        counts = [torch.zeros_like(count) for _ in range(self.size)]
        dist.all_gather(counts, count)
        most = int(torch.cat(counts).max())
        wheres, keys = self._gather(where, most), self._gather(key.contiguous(), most)
        rows = [int(n) for n in counts]
        joined = torch.cat([part[:n] for part, n in zip(wheres, rows, strict=True)])
        return joined[:, 0], joined[:, 1], torch.cat([part[:n] for part, n in zip(keys, rows, strict=True)])

    def _gather(self, rows: Tensor, most: int) -> list[Tensor]:
        padded = rows.new_zeros(most, rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return parts

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the workers."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def copy_first(self, values: Iterable[Tensor]) -> None:
        """Worker 0's values, in place, on every worker."""
        if self.size > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            dist.barrier()
