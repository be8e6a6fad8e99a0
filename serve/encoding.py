"""Images and words to vectors, many at a time, by the encoder that made the vectors of the version that is asked."""

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
from serve.refusal import Refusal
from ucdr_ray.errors import UserError
from ucdr_ray.index.search import Index
from ucdr_ray.models.encoder import Encoder

_KEPT = 2  # encoders: that of the version in use, and of the one before


@dataclass(frozen=True)
class Input:
    """Pixels uint8 (3, S, S) as the encoder of ``index`` takes them, or a text, where it takes any."""

    content: np.ndarray | str
    index: Index
    deadline: float  # of the event loop's clock

    @property
    def kind(self) -> tuple[str, bool]:
        """What can be encoded together: of one model, and all pictures or all text."""
        return self.index.manifest.model.fingerprint, isinstance(self.content, str)


def together(inputs: Sequence[Input]) -> np.ndarray | list[str]:
    """The contents of inputs of one kind: uint8 (B, 3, S, S), or texts."""
    texts = [one.content for one in inputs if isinstance(one.content, str)]
    return texts or np.stack([one.content for one in inputs if not isinstance(one.content, str)])


class Encoding(Protocol):
    """Where pictures and texts become vectors."""

    async def encode(self, inputs: Sequence[Input]) -> list[np.ndarray]:
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

    def encode(self, index: Index, contents: np.ndarray | list[str]) -> list[np.ndarray | str]:
        """Float32 (dim,) of each picture, uint8 (B, 3, S, S), or of each text; of a text that won't do, why."""
        encoder = self.of(index)
        if isinstance(contents, np.ndarray):
            return list(encoder.encode(torch.from_numpy(contents).to(self._device)).cpu().numpy())
        try:
            return list(encoder.encode_text(contents).cpu().numpy())
        except UserError as error:
            if len(contents) == 1:
                return [str(error)]
        return [one for text in contents for one in self.encode(index, [text])]


def encoded(found: Sequence[np.ndarray | str]) -> list[np.ndarray | Exception]:
    """What `Encoders.encode` gave, as a `Batcher` wants it."""
    return [Refusal(422, f"text: {one}") if isinstance(one, str) else one for one in found]


class Here:
    """An `Encoding` in this process, on a thread of its own."""

    def __init__(self, batch: int, threads: int = 1) -> None:
        self.encoders = Encoders(threads=threads)
        self._thread = ThreadPoolExecutor(1, "encode")
        self._batcher: Batcher[Input, np.ndarray] = Batcher(self._run, batch, key=lambda one: one.kind)

    async def encode(self, inputs: Sequence[Input]) -> list[np.ndarray]:
        return await self._batcher.ask(inputs)

    async def prepare(self) -> None:
        """Nothing: the library that holds the version has loaded its encoder."""

    async def missing(self) -> list[str]:
        return []

    async def _run(self, batch: list[Input]) -> list[np.ndarray | Exception]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._thread, self.encoders.encode, batch[0].index, together(batch)
        )
        return encoded(found)
