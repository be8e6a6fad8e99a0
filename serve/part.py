"""A part of the index, in a process of its own."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serve.library import Library
from serve.looking import Column, Row, Wish, look, pack, row_of
from serve.watching import Watcher
from ucdr_ray.index.search import Index


class PartHost:
    """What `serve.router.Part` calls."""

    def __init__(self, path: Path, number: int, parts: int, watch_s: float, threads: int = 1) -> None:
        """Load the shards of part ``number`` of ``parts``."""
        self._library = Library(path, lambda manifest: manifest.part(number, parts))
        self._threads = ThreadPoolExecutor(threads, "search")
        self._beside = ThreadPoolExecutor(1, "beside")
        self._watcher = Watcher(path, watch_s, self.refresh)

    async def search(
        self, version: str, vectors: np.ndarray, wishes: Sequence[Wish]
    ) -> list[dict[str, Column]] | None:
        """See `serve.router.Part`."""
        self._watcher.start()
        index = self._library.at(version)
        if index is None:
            self._watcher.hurry()
            return None
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, _packed, index, vectors, wishes
        )

    async def row(self, version: str, id_: str, domain: str | None) -> Row | None:
        """See `serve.router.Part`.

        Raises:
            LookupError: this copy does not hold the version.
        """
        index = self._library.at(version)
        if index is None:
            self._watcher.hurry()
            raise LookupError(f"version {version} is not here")
        there = domain is None or domain in index.manifest.domains
        return (
            await asyncio.get_running_loop().run_in_executor(self._beside, row_of, index, id_, domain)
            if there
            else None
        )

    async def refresh(self) -> str:
        """Take up the version in use."""
        return await asyncio.to_thread(self._library.refresh)

    async def version(self) -> str:
        """The version in use here."""
        self._watcher.start()
        return self._library.newest.version


def _packed(index: Index, vectors: np.ndarray, wishes: Sequence[Wish]) -> list[dict[str, Column]]:
    return [pack(found) for found in look(index, vectors, wishes)]
