"""Batches that form by themselves."""

import asyncio
import time
from contextvars import ContextVar

import pytest

from serve.batching import Batcher
from serve.refusal import Refusal


def test_questions_of_other_kinds_are_not_waited_for():
    async def run(batch):
        await asyncio.sleep(0.5 if batch[0] == "slow" else 0)
        assert len(set(batch)) == 1
        return batch

    async def asked():
        batcher = Batcher(run, most=8, at_once=2, key=str)
        start = time.perf_counter()
        slow = asyncio.create_task(batcher.ask(["slow", "quick", "slow", "quick"]))
        await asyncio.sleep(0)
        await batcher.ask(["quick"])
        took = time.perf_counter() - start
        return took, await slow

    took, answers = asyncio.run(asked())
    assert took < 0.4 and answers == ["slow", "quick", "slow", "quick"]


def test_batches_form_while_others_are_at_work_and_none_is_lost():
    sizes = []

    async def squares(batch):
        sizes.append(len(batch))
        await asyncio.sleep(0.01)
        return [ValueError(str(number)) if number % 10 == 9 else number**2 for number in batch]

    async def all_of_them():
        batcher = Batcher(squares, most=8, at_once=2)
        return await asyncio.gather(*(batcher.ask([number]) for number in range(50)), return_exceptions=True)

    for number, answer in enumerate(asyncio.run(all_of_them())):
        assert str(answer) == str(number) if number % 10 == 9 else answer == [number**2]
    assert sum(sizes) == 50 and max(sizes) == 8 and sizes[0] == 1


def test_who_goes_away_takes_nobody_along():
    """A batch's work belongs to none of those who asked: Ray cancels what began in a request that was given up."""
    asker = ContextVar("asker", default="nobody")

    async def run(batch):
        if batch == ["cancelled"]:
            raise asyncio.CancelledError
        return [asker.get()] * len(batch)

    async def asked():
        asker.set("somebody")
        batcher = Batcher(run, most=1)
        with pytest.raises(Refusal):
            await asyncio.wait_for(batcher.ask(["cancelled"]), 5)
        return await batcher.ask(["other"])

    assert asyncio.run(asked()) == ["nobody"]


def test_who_has_gone_is_not_answered():
    asked = []

    async def slow(batch):
        asked.extend(batch)
        await asyncio.sleep(0.02)
        return batch

    async def impatient():
        batcher = Batcher(slow, most=1)
        first = asyncio.create_task(batcher.ask(["first"]))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.ask(["gone"]), 0.001)
        last = await batcher.ask(["last"])
        return [*(await first), *last]

    assert asyncio.run(impatient()) == ["first", "last"] == asked
