"""Deadlines on a machine that is busy, without Ray."""

import asyncio
import time

from tests.serving import Site, ask


def test_a_moment_without_a_processor_does_not_cost_the_other_parts_answer(world):
    """A busy machine wakes the service a little late, when the deadline has just passed."""
    site = Site(world.index, 3, deadline_ms=300)
    search = site.searcher.search

    async def asleep():
        await asyncio.sleep(30)

    async def stalled(questions):
        asyncio.get_running_loop().call_at(questions[0].deadline - 0.025, time.sleep, 0.03)
        return await search(questions)

    site.parts[1].before = asleep
    site.searcher.search = stalled
    vector = world.embeddings.vectors("photo")[7].tolist()
    response = ask(site, "/v1/search", json={"vector": vector})
    assert response.status_code == 200 and response.json()["partial"]
