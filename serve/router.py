"""An index in parts elsewhere: questions are batched, fanned out, and the answers merged exactly.

Cost of a batch: one call for each part that has shards of the domains asked, whatever the number of questions.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from serve.batching import Batcher, hurried
from serve.library import Library
from serve.looking import Column, Looked, Question, Row, Wish, merged
from serve.refusal import Refusal, no_version
from ucdr_ray.errors import UserError
from ucdr_ray.index.search import Index

_MOST = 128  # questions of one call
_KINDS = 256  # of sets of parts that are asked together
_AT_ONCE = 4  # batches under way, while none is slow
_MARGIN_S = 0.02  # of the deadline, left for merging and answering
_HELD_S = 0.05  # after which a batch does not keep others from starting: a slow part must not stop the rest
_AGAIN_S = 0.05  # between questions for a version that a part is still loading


class Part(Protocol):
    """A group of shards elsewhere, perhaps in several copies. Its calls raise whatever keeps it from answering."""

    async def search(
        self, version: str, vectors: np.ndarray, wishes: list[Wish]
    ) -> list[dict[str, Column]] | None:
        """By question and domain its top k; None where this copy does not hold the version."""

    async def row(self, version: str, id_: str, domain: str | None) -> Row | None:
        """An image, if it is in this part."""

    async def refresh(self) -> None:
        """Take up the version in use, in every copy that lives. Raises what keeps one from it."""

    async def version(self) -> str:
        """The version in use in one of the copies."""


class Router:
    """A `Searcher`. Holds manifests and no shards."""

    def __init__(
        self,
        path: Path,
        parts: Sequence[Part],
        strict: bool = False,
        prepare: Callable[[Index], object] | None = None,
    ) -> None:
        """
        Args:
            strict: an answer that some shards are missing from is refused, instead of being marked.
            prepare: see `Library`.
        """
        self._library = Library(path, lambda manifest: [], prepare)
        self._parts = parts
        self._strict = strict
        self._holders: dict[str, dict[int, list[str]]] = {}
        self._batchers: dict[frozenset[int], Batcher[Question, Looked]] = {}

    @property
    def newest(self) -> Index:
        return self._library.newest

    async def search(self, questions: Sequence[Question]) -> list[Looked]:
        """All questions have the wishes and the version of the first."""
        # Only what asks the same parts goes together: it must not wait for a slow one that it does not need.
        wanted = set(questions[0].wish.domains)
        parts = frozenset(
            number
            for number, domains in self._domains_of(questions[0].index).items()
            if wanted.intersection(domains)
        )
        if parts not in self._batchers and len(self._batchers) >= _KINDS:
            parts = frozenset()  # what asks in too many ways shares one
        if parts not in self._batchers:
            self._batchers[parts] = Batcher(
                self._run,
                _MOST,
                _AT_ONCE,
                _HELD_S,
                key=lambda question: (question.index.version, hurried(question.deadline)),
            )
        return await self._batchers[parts].ask(questions)

    async def row(self, id_: str, domain: str | None, index: Index) -> Row | None:
        tasks = [
            asyncio.ensure_future(self._parts[number].row(index.version, id_, domain))
            for number, domains in self._domains_of(index).items()
            if domain is None or domain in domains
        ]
        silent = False
        try:
            for answer in asyncio.as_completed(tasks):  # who has it answers for all
                try:
                    if (row := await answer) is not None:
                        return row
                except Exception:
                    silent = True
        finally:
            _given_up(tasks)
        if silent:
            raise Refusal(503, "a part of the index that may have this image does not answer", 1)
        return None

    async def refresh(self) -> str:
        # The parts first: until all of them hold the new version, questions go to the old one.
        # One that is dead takes it up when it starts again; one that can't keeps everybody from it.
        answers = await asyncio.gather(*(part.refresh() for part in self._parts), return_exceptions=True)
        problems = [answer for answer in answers if isinstance(answer, BaseException)]
        if problems:
            raise next((problem for problem in problems if isinstance(problem, UserError)), problems[0])
        return await asyncio.to_thread(self._library.refresh)

    async def missing(self) -> list[str]:
        answers = await asyncio.gather(
            *(asyncio.wait_for(part.version(), 1) for part in self._parts), return_exceptions=True
        )
        return [
            f"part {number}" for number, answer in enumerate(answers) if isinstance(answer, BaseException)
        ]

    def _domains_of(self, index: Index) -> dict[int, list[str]]:
        """The domain of each shard, by part; parts without shards are left out."""
        if index.version not in self._holders:
            groups = index.manifest.parts(len(self._parts))
            kept = dict(list(self._holders.items())[-1:])
            self._holders = kept | {
                index.version: {
                    number: [entry.domain for entry in group] for number, group in enumerate(groups) if group
                }
            }
        return self._holders[index.version]

    async def _run(self, batch: list[Question]) -> Sequence[Looked | Exception]:
        """Answers from the version asked for or, where a part has it not yet or no more, another of the same model."""
        wanted = batch[0].index
        asked = {domain for question in batch for domain in question.wish.domains}
        end = min(question.deadline for question in batch)
        while True:
            others = (index for index in self._library.held if index.version != wanted.version)
            for index in (wanted, *others):
                if index.manifest.model == wanted.manifest.model and asked <= index.rows.keys():
                    answers = await self._fan_out(index, batch, end)
                    if answers is not None:
                        return answers
            if asyncio.get_running_loop().time() + _AGAIN_S > end:
                return [no_version(wanted.version)] * len(batch)
            await asyncio.sleep(_AGAIN_S)

    async def _fan_out(
        self, index: Index, batch: list[Question], end: float
    ) -> Sequence[Looked | Exception] | None:
        """Ask every part that has a shard to search; None where one does not hold this version."""
        asked = {domain for question in batch for domain in question.wish.domains}
        holders = {
            number: domains
            for number, domains in self._domains_of(index).items()
            if asked.intersection(domains)
        }
        vectors = np.stack([question.vector for question in batch])
        wishes = [question.wish for question in batch]
        tasks = {
            asyncio.ensure_future(self._parts[number].search(index.version, vectors, wishes)): number
            for number in holders
        }
        if tasks:
            now = asyncio.get_running_loop().time()
            await asyncio.wait(tasks, timeout=max(0.0, end - now - _MARGIN_S))
        answered: dict[int, list[dict[str, Column]]] = {}
        for task, number in tasks.items():
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is None:
                result = task.result()
                if result is None:
                    _given_up(tasks)
                    return None
                answered[number] = result
        return [
            self._looked(
                index, question, [answer[place] for answer in answered.values()], holders, set(answered)
            )
            for place, question in enumerate(batch)
        ]

    def _looked(
        self,
        index: Index,
        question: Question,
        answers: list[dict[str, Column]],
        holders: dict[int, list[str]],
        answered: set[int],
    ) -> Looked | Exception:
        names = question.wish.domains
        shards = {number: sum(domain in names for domain in domains) for number, domains in holders.items()}
        total, there = sum(shards.values()), sum(shards[number] for number in answered)
        if there < total and (self._strict or there == 0):
            return Refusal(503, f"{there} of {total} shards answered in time; try again later", 1)
        return Looked(index, merged(answers, question.wish), there, total)


def _given_up(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what is under way, and look at what failed, so that nobody logs it."""
    for task in tasks:
        if not task.cancel() and not task.cancelled():
            task.exception()
