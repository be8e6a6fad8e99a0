"""Which images a step sees: decided by seed and step alone, so that a resumed run sees the same ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass
class Images:
    """One worker's share of a step's images, decoded."""

    pixels: Tensor  # (B, 3, S, S) uint8
    domain: Tensor  # (B,) int64
    slot: Tensor  # (B,) int64
    position: Tensor  # (B,) int64, place in the global batch: seeds the augmentation
    latents: Tensor | None = None  # (B, V, 2, C, s, s) float16, where a method asks for them


class Feed(Protocol):
    """A source of training batches, the same number of steps on every worker."""

    rows: int  # images of one step, all workers together

    def steps(self) -> int:
        """Steps of an epoch."""

    def epoch(self, epoch: int, latents: bool = False) -> Iterator[Images]:
        """The steps of an epoch, this worker's share of each; `latents`: with those of its images."""

    def sweep(self) -> Iterator[Images]:
        """Every image of every domain once, shared out over the workers, in the order of slots."""


def shard(rows: int, rank: int, workers: int) -> slice:
    """This worker's rows of a batch: contiguous, sizes differing by at most one."""
    return slice(rows * rank // workers, rows * (rank + 1) // workers)


def shuffled(rows: int, start: int, stop: int, seed: Sequence[int]) -> np.ndarray:
    """Entries start..stop of an endless sequence: 0..rows-1 in a random order, then in another one, and so on."""
    if rows == 1:  # beside a large domain, a round for each of its images
        return np.zeros(stop - start, np.int64)
    rounds = range(start // rows, (stop - 1) // rows + 1)
    sequence = np.concatenate([np.random.default_rng([*seed, round_]).permutation(rows) for round_ in rounds])
    return sequence[start - rounds[0] * rows : stop - rounds[0] * rows]


class Rows(Protocol):
    """An array of images, or something that is read like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


class ResidentFeed:
    """Decoded images in memory, read by slot.

    Every step takes `batch` images of each domain. A domain is run through in a fresh random order, again and again;
    an epoch ends when the largest domain was seen once.

    Args:
        arrays: per domain (N, 3, S, S) uint8; may be read-only views of shared memory.
        batch: images per domain and step, over all workers.
        latents: per domain (N, V, 2, C, s, s), for epochs that ask for them.
    """

    def __init__(
        self,
        arrays: Sequence[Rows],
        batch: int,
        seed: int,
        rank: int = 0,
        workers: int = 1,
        latents: Sequence[Rows] | None = None,
    ) -> None:
        self.arrays = list(arrays)
        self.latents = None if latents is None else list(latents)
        self.batch = batch
        self.seed = seed
        self.rank, self.workers = rank, workers
        self.rows = batch * len(self.arrays)

    def steps(self) -> int:
        return -(-max(len(array) for array in self.arrays) // self.batch)

    def _images(self, picks: list[np.ndarray], positions: list[np.ndarray]) -> Images:
        pixels = [array[slots] for array, slots in zip(self.arrays, picks, strict=True)]
        domain = np.repeat(np.arange(len(picks)), [len(slots) for slots in picks])
        return Images(
            torch.from_numpy(np.concatenate(pixels)),
            torch.from_numpy(domain),
            torch.from_numpy(np.concatenate(picks)),
            torch.from_numpy(np.concatenate(positions)),
        )

    def epoch(self, epoch: int, latents: bool = False) -> Iterator[Images]:
        steps, mine = self.steps(), shard(self.batch, self.rank, self.workers)
        whole = [
            shuffled(
                len(array), epoch * steps * self.batch, (epoch + 1) * steps * self.batch, [self.seed, domain]
            )
            for domain, array in enumerate(self.arrays)
        ]
        for step in range(steps):
            first = step * self.batch
            picks = [slots[first + mine.start : first + mine.stop] for slots in whole]
            positions = [np.arange(mine.start, mine.stop) + d * self.batch for d in range(len(whole))]
            images = self._images(picks, positions)
            if latents:
                assert self.latents is not None
                found = [rows[slots] for rows, slots in zip(self.latents, picks, strict=True)]
                images.latents = torch.from_numpy(np.concatenate(found))
            yield images

    def sweep(self) -> Iterator[Images]:
        block = 4 * self.batch
        for start in range(0, max(len(array) for array in self.arrays), block):
            picks = []
            for array in self.arrays:
                slots = np.arange(start, min(start + block, len(array)))
                picks.append(slots[shard(len(slots), self.rank, self.workers)])
            yield self._images(picks, [np.zeros(len(p), dtype=np.int64) for p in picks])
