"""Looks, now and then, whether another version is in use."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from ucdr_ray.errors import UserError
from ucdr_ray.index.versions import current

_REST = 30  # times as seldom, what could not be used is tried again: a disk that could not be read may heal
log = logging.getLogger("ucdr_ray.serve")


class Watcher:
    """Calls `refresh` when ``CURRENT`` changes. What can't be used is said once, and the old version goes on."""

    def __init__(self, path: Path, every_s: float, refresh: Callable[[], Awaitable[str]]) -> None:
        """
        Args:
            every_s: 0: only when told to hurry.
        """
        self._path = path
        self._every = every_s
        self._refresh = refresh
        self._task: asyncio.Task[None] | None = None
        self._now = asyncio.Event()
        self._said = ""

    def start(self) -> None:
        """Once, from within the event loop; later calls change nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def hurry(self) -> None:
        """Look at once."""
        self._now.set()

    async def _watch(self) -> None:
        seen, again = "", float("inf")
        while True:
            hurried = False
            with suppress(TimeoutError):
                hurried = await asyncio.wait_for(self._now.wait(), self._every or None)
            self._now.clear()
            wanted = ""
            try:
                wanted = await asyncio.to_thread(current, self._path)
                if wanted != seen or hurried or time.monotonic() > again:
                    seen, again = await self._refresh(), float("inf")
                    self._said = ""
            except UserError as error:
                self._say(str(error).replace(f"{self._path.resolve()}/", "").replace(f"{self._path}/", ""))
                seen = wanted or seen
                again = time.monotonic() + _REST * self._every
            except Exception as error:  # such as a copy that died meanwhile: it is tried again
                self._say(type(error).__name__)

    def _say(self, problem: str) -> None:
        """Once, however often it is met."""
        if problem != self._said:
            log.warning("the version in use stays: %s", problem)
        self._said = problem
