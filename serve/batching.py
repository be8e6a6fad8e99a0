"""Batches that form by themselves: what arrives while earlier ones are at work goes together next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from serve.refusal import Refusal

Q = TypeVar("Q")
A = TypeVar("A")
_HURRIED_S = 0.1


def hurried(deadline: float) -> bool:
    """Whether a question has too little time left to share its end with others'."""
    return deadline - asyncio.get_running_loop().time() < _HURRIED_S


class Batcher(Generic[Q, A]):
    """Calls `run` with many questions at once. A single one never waits while nothing is at work."""

    def __init__(
        self,
        run: Callable[[list[Q]], Awaitable[Sequence[A | Exception]]],
        most: int,
        at_once: int = 1,
        held_s: float | None = None,
        key: Callable[[Q], Hashable] = lambda question: None,
    ) -> None:
        """
        Args:
            run: gives an answer, or what prevents it, for each question in order.
            most: questions of a batch.
            at_once: batches at work.
            held_s: after which a batch no longer keeps others from starting, where what is slow must not stop the
                rest; without it, it does until it is done: its threads would only gather what nobody waits for.
            key: only questions with the same are answered together.
        """
        self._run = run
        self._most = most
        self._free = at_once
        self._held_s = held_s
        self._key = key
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, questions: Sequence[Q]) -> list[A]:
        """Their answers, in order. Raises the first of what prevents one."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[A]] = [loop.create_future() for _ in questions]
        self._waiting.extend(zip(questions, futures, strict=True))
        self._start()
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()  # who asked has gone: whatever still waits need not be computed

    def _start(self) -> None:
        while self._free and self._waiting:
            if batch := self._next():
                self._free -= 1
                # In a context of its own: in that of whoever asked first, Ray would cancel it when that one goes away.
                task = asyncio.get_running_loop().create_task(self._answer(batch), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        """Who has waited longest, and others of the same key; none where all have gone away."""
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        others: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(batch) < self._most:
            taken = self._waiting.popleft()
            if not taken[1].done():
                same = not batch or self._key(taken[0]) == self._key(batch[0][0])
                (batch if same else others).append(taken)
        self._waiting.extendleft(reversed(others))
        return batch

    async def _answer(self, batch: list[tuple[Q, asyncio.Future[A]]]) -> None:
        work = asyncio.ensure_future(self._run([question for question, _ in batch]))  # noqa: RUF006  (awaited below)
        await asyncio.wait([work], timeout=self._held_s)
        self._free += 1
        self._start()
        answers: Sequence[A | Exception]
        try:
            answers = await work
        except asyncio.CancelledError:
            answers = [Refusal(503, "the search was given up; try again", 1)] * len(batch)
        except Exception as error:
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
