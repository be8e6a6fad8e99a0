"""The whole index in the process that answers: one hop, nothing to merge."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serve.batching import Batcher
from serve.library import Library
from serve.looking import Looked, Question, Row, look, row_of
from ucdr_ray.index.search import Index
from ucdr_ray.index.shard import one_thread

_MOST = 64  # questions that are searched together


class Whole:
    """A `Searcher`."""

    def __init__(
        self, path: Path, threads: int = 1, prepare: Callable[[Index], object] | None = None
    ) -> None:
        """Open and load the index; see `Library`.

        Args:
            threads: searches at the same time, each on one core.
        """
        self._library = Library(path, prepare=prepare)
        self._threads = ThreadPoolExecutor(threads, "search", initializer=one_thread)
        self._beside = ThreadPoolExecutor(1, "beside")  # thumbnails, which must not wait behind searches
        self._batcher: Batcher[Question, Looked] = Batcher(
            self._run, _MOST, threads, key=lambda question: question.index.version
        )

    @property
    def newest(self) -> Index:
        return self._library.newest

    async def search(self, questions: Sequence[Question]) -> list[Looked]:
        return await self._batcher.ask(questions)

    async def row(self, id_: str, domain: str | None, index: Index) -> Row | None:
        return await asyncio.get_running_loop().run_in_executor(self._beside, row_of, index, id_, domain)

    async def refresh(self) -> str:
        return await asyncio.to_thread(self._library.refresh)

    async def missing(self) -> list[str]:
        return []

    async def _run(self, batch: list[Question]) -> list[Looked]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _looked, batch)


def _looked(batch: list[Question]) -> list[Looked]:
    index, wishes = batch[0].index, [question.wish for question in batch]
    found = look(index, np.stack([question.vector for question in batch]), wishes)
    shards = [sum(index.shards[domain] for domain in wish.domains) for wish in wishes]
    return [Looked(index, one, count, count) for one, count in zip(found, shards, strict=True)]
