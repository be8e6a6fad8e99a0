"""What every process does that holds versions of an index for others to ask."""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serve.library import Library
from serve.watching import Watcher
from ucdr_ray.errors import UserError
from ucdr_ray.index.search import Index
from ucdr_ray.index.shard import one_thread


async def problem_of(taking_up: Awaitable[str]) -> str | None:
    """What keeps a version from being taken up, for a caller elsewhere: Ray would log an exception's traceback."""
    try:
        await taking_up
    except UserError as error:
        return str(error)
    return None


class Host:
    """Takes up new versions, told to or by itself."""

    def __init__(self, path: Path, watch_s: float, library: Library, threads: int = 1) -> None:
        """
        Args:
            threads: that work on what is asked.
        """
        self._library = library
        self._threads = ThreadPoolExecutor(threads, "work", initializer=one_thread)
        self._watcher = Watcher(path, watch_s, self.refresh)

    def held(self, version: str) -> Index | None:
        """A version, if it is here; if not, it is looked for."""
        self._watcher.start()
        index = self._library.at(version)
        if index is None:
            self._watcher.hurry()
        return index

    def of_model(self, fingerprint: str) -> Index | None:
        """A version of a model, if one is here."""
        held = self._library.held
        return next((index for index in held if index.manifest.model.fingerprint == fingerprint), None)

    async def refresh(self) -> str:
        """Take up the version in use, and say it.

        Raises:
            UserError: it is damaged; the old one stays.
        """
        return await asyncio.to_thread(self._library.refresh)

    async def take_up(self) -> str | None:
        """The same for callers elsewhere: what is wrong, if anything."""
        return await problem_of(self.refresh())

    async def version(self) -> str:
        """The version in use here."""
        self._watcher.start()
        return self._library.newest.version
