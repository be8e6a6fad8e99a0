"""Five times what the service takes, for minutes: it says so, goes on, and keeps nothing."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.served import Clients, serving
from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.index.build import build

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]
ROUNDS, ROUND_S, TIMES = 5, 60, 5


async def offered(
    address: str, asked: dict[str, Any], plain: dict[str, Any], each_s: float
) -> tuple[list[tuple[int, str | None]], float]:
    """Requests at a steady pace, answered or not: their statuses and Retry-After, and when a plain one got through."""
    loop = asyncio.get_running_loop()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:

        async def one() -> tuple[int, str | None]:
            response = await client.post("/v1/search", **asked)
            return response.status_code, response.headers.get("retry-after")

        start, tasks = loop.time(), []
        for number in range(int(ROUND_S / each_s)):
            await asyncio.sleep(start + number * each_s - loop.time())
            tasks.append(asyncio.create_task(one()))
        end = loop.time()
        while (await client.post("/v1/search", **plain)).status_code != 200:
            await asyncio.sleep(0.05)
        recovered = loop.time() - end
        return await asyncio.gather(*tasks), recovered


def resident(pid: int) -> int:
    """Megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


def test_five_times_too_much_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, tell: Callable[..., None]
) -> None:
    """Large pictures: the service takes few of them, so that one client can offer five times as many."""
    catalog = make_catalog(tmp_path / "catalog", {"photo": 60, "sketch": 43})
    embeddings = make_embeddings(tmp_path / "embeddings", catalog)
    build(embeddings, catalog, tmp_path / "index")
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 2000), "teal").save(buffer, "PNG")
    asked = {"content": buffer.getvalue(), "headers": {"content-type": "image/png"}}
    plain = {"json": {"vector": embeddings.vectors("photo")[7].tolist()}}
    # The deadline is generous: here the queue is to limit what is taken in, on a machine however busy.
    with serving(
        tmp_path / "index", shape="whole", queue=8, deadline_ms=20_000, replicas={"most": 1}
    ) as service:
        with Clients(service.address, [asked]) as clients:
            time.sleep(10)
        assert clients.statuses == {200}
        each_s = 10 / len(clients.answers) / TIMES
        [copy] = service.replicas("ingress")
        statuses: Counter[int] = Counter()
        slowest, memory = 0.0, []
        for _ in range(ROUNDS):
            answers, recovered = asyncio.run(offered(service.address, asked, plain, each_s))
            statuses.update(status for status, _ in answers)
            assert set(statuses) == {200, 429}, statuses
            assert all(again == "1" for status, again in answers if status == 429)
            slowest = max(slowest, recovered)
            memory.append(resident(copy))
        assert service.replicas("ingress") == [copy]
    tell(
        f"{TIMES} × too much, {ROUNDS} × {ROUND_S} s",
        taken_a_minute=len(clients.answers) * 6,
        offered_a_minute=int(60 / each_s),
        answered=statuses[200],
        refused=statuses[429],
        recovered_ms=int(1e3 * slowest),
        first_mb=memory[0],
        last_mb=memory[-1],
    )
    assert statuses[429] > statuses[200] and slowest < 5
    assert memory[-1] < memory[0] + 100
