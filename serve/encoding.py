"""Images to vectors, many at a time, by the encoder that made the vectors of the version that is asked."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
import torch

from serve.batching import Batcher
from ucdr_ray.index.search import Index
from ucdr_ray.models.encoder import Encoder

_KEPT = 2  # encoders: that of the version in use, and of the one before


@dataclass(frozen=True)
class Picture:
    """Pixels uint8 (3, S, S) as the encoder of ``index`` takes them."""

    pixels: np.ndarray
    index: Index
    deadline: float  # of the event loop's clock


class Encoding(Protocol):
    """Where pictures become vectors."""

    async def encode(self, pictures: Sequence[Picture]) -> list[np.ndarray]:
        """Unit vectors float32 (dim,). Raises Refusal."""

    async def prepare(self) -> None:
        """Load what the version in use needs, before questions go to it. Raises UserError where it can't be used."""

    async def missing(self) -> list[str]:
        """What does not answer; nothing when ready."""


class Encoders:
    """The encoders of the versions in use, by fingerprint, and the pictures' shape that each wants."""

    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._device = device
        self._kept: OrderedDict[str, Encoder] = OrderedDict()
        self._loading = Lock()

    def of(self, index: Index) -> Encoder:
        """Loaded when first asked for."""
        key = index.manifest.model.fingerprint
        if (there := self._kept.get(key)) is not None:
            return there
        with self._loading:
            encoder = self._kept.get(key) or index.encoder.to(self._device)
            self._kept[key] = encoder
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return encoder

    def encode(self, index: Index, pixels: np.ndarray) -> np.ndarray:
        """Uint8 (B, 3, S, S) to float32 (B, dim)."""
        return self.of(index).encode(torch.from_numpy(pixels).to(self._device)).cpu().numpy()


class Here:
    """An `Encoding` in this process, on a thread of its own."""

    def __init__(self, batch: int, threads: int = 1) -> None:
        self.encoders = Encoders(threads=threads)
        self._thread = ThreadPoolExecutor(1, "encode")
        self._batcher: Batcher[Picture, np.ndarray] = Batcher(
            self._run, batch, key=lambda picture: picture.index.manifest.model.fingerprint
        )

    async def encode(self, pictures: Sequence[Picture]) -> list[np.ndarray]:
        return await self._batcher.ask(pictures)

    async def prepare(self) -> None:
        """Nothing: the library that holds the version has loaded its encoder."""

    async def missing(self) -> list[str]:
        return []

    async def _run(self, batch: list[Picture]) -> list[np.ndarray]:
        pixels = np.stack([picture.pixels for picture in batch])
        vectors = await asyncio.get_running_loop().run_in_executor(
            self._thread, self.encoders.encode, batch[0].index, pixels
        )
        return list(vectors)
