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
        counts = self._counts(len(slot), slot.device)
        where = self._gather(torch.stack([domain, slot], dim=1), counts)
        return where[:, 0], where[:, 1], self._gather(key, counts)

    def joined(self, rows: Tensor) -> tuple[Tensor, slice]:
        """Every worker's rows (B, D), joined in rank order, and which are this one's; only they have a gradient."""
        if self.size == 1:
            return rows, slice(0, len(rows))
        counts = self._counts(len(rows), rows.device)
        first = sum(counts[: self.rank])
        own = slice(first, first + len(rows))
        whole = self._gather(rows.detach(), counts)
        return torch.cat([whole[: own.start], rows, whole[own.stop :]]), own

    def _counts(self, rows: int, device: torch.device) -> list[int]:
        count = torch.tensor([rows], device=device)
        counts = [torch.zeros_like(count) for _ in range(self.size)]
        dist.all_gather(counts, count)
        return [int(n) for n in counts]

    def _gather(self, rows: Tensor, counts: list[int]) -> Tensor:
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

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
