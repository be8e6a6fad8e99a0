"""A part of the index, in a process of its own."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serve.host import Host
from serve.library import Library
from serve.looking import Column, Row, Wish, look, pack, row_of
from ucdr_ray.index.search import Index


class PartHost(Host):
    """What `serve.router.Part` calls."""

    def __init__(self, path: Path, number: int, parts: int, watch_s: float, threads: int = 1) -> None:
        """Load the shards of part ``number`` of ``parts``."""
        library = Library(path, lambda manifest: manifest.parts(parts)[number])
        super().__init__(path, watch_s, library, threads)
        self._beside = ThreadPoolExecutor(1, "beside")

    async def search(
        self, version: str, vectors: np.ndarray, wishes: Sequence[Wish]
    ) -> list[dict[str, Column]] | None:
        """See `serve.router.Part`."""
        if (index := self.held(version)) is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, _packed, index, vectors, wishes
        )

    async def row(self, version: str, id_: str, domain: str | None) -> Row | None:
        """See `serve.router.Part`.

        Raises:
            LookupError: this copy does not hold the version.
        """
        if (index := self.held(version)) is None:
            raise LookupError(f"version {version} is not here")
        if domain is not None and domain not in index.manifest.domains:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._beside, row_of, index, id_, domain)


def _packed(index: Index, vectors: np.ndarray, wishes: Sequence[Wish]) -> list[dict[str, Column]]:
    return [pack(found) for found in look(index, vectors, wishes)]
