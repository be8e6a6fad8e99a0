"""Long faults of the service: parts that die or sleep, twenty versions in a row, an encoder that dies."""

import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.served import ADMIN, Clients, Service, serving
from tests.tiny import make_catalog, make_embeddings, picture
from ucdr_ray.index.build import build
from ucdr_ray.index.change import delete
from ucdr_ray.index.search import Index

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]
KILLS, ASLEEP, VERSIONS = 10, 30, 20
Tell = Callable[..., None]
Answer = dict[str, Any]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Seven shards of two domains, with an encoder."""
    catalog = make_catalog(tmp_path / "catalog", {"photo": 60, "sketch": 43})
    build(make_embeddings(tmp_path / "embeddings", catalog), catalog, tmp_path / "index", rows_per_shard=16)
    return tmp_path / "index"


def question(index: Path, k: int) -> dict[str, Any]:
    """A search for an image of the index, as httpx takes it."""
    return {"json": {"vector": vector(index).tolist(), "k": k}}


def vector(index: Path) -> np.ndarray:
    return Index.open(index).domain("photo").vectors(np.array([50]))[0]


def until(done: Callable[[], bool], limit_s: float, what: str) -> float:
    """Seconds until it is so."""
    start = time.monotonic()
    while not done():
        assert time.monotonic() < start + limit_s, what
        time.sleep(0.05)
    return time.monotonic() - start


def whole(client: httpx.Client, asked: dict[str, Any]) -> bool:
    """Whether an answer is one, of every part."""
    response = client.post("/v1/search", **asked)
    return response.status_code == 200 and not response.json()["partial"]


@pytest.mark.parametrize("policy", ["partial", "strict"])
def test_a_part_all_of_whose_copies_are_killed(index: Path, policy: str, tell: Tell) -> None:
    asked = question(index, 200)
    with (
        serving(
            index, shape="sharded", parts=2, part_replicas={"least": 2}, when_down=policy, deadline_ms=500
        ) as service,
        httpx.Client(base_url=service.address, timeout=30) as client,
    ):
        until(lambda: whole(client, asked), 120, "no whole answer")
        truth = client.post("/v1/search", **asked).json()
        counts: Counter[int] = Counter()
        slowest = 0.0
        for _ in range(3):
            copies = service.replicas("part-1")
            assert len(copies) == 2
            for copy in copies:
                os.kill(copy, signal.SIGKILL)
            killed, down = time.monotonic(), 0
            while True:
                response = client.post("/v1/search", **asked)
                answer = response.json()
                counts[response.status_code] += 1
                if response.status_code == 200 and not answer["partial"]:
                    break
                down += 1
                if policy == "strict":
                    assert response.status_code == 503 and response.headers["retry-after"] == "1"
                else:
                    assert response.status_code == 200, answer
                    rest_of(truth, answer)
                assert time.monotonic() < killed + 120, "the part did not come back"
            slowest = max(slowest, time.monotonic() - killed)
            assert down > 0 and answer["hits"] == truth["hits"]
            until(lambda: service.running("part-1") == 2, 120, "one copy did not come back")
    tell(f"part lost, {policy}", tried=3, down=sum(counts.values()) - 3, recovered_ms=int(1e3 * slowest))


def rest_of(truth: Answer, answer: Answer) -> None:
    """Marked, and what the other part holds."""
    assert answer["partial"] and answer["shards"]["answered"] < answer["shards"]["total"]
    there = {hit["source"] for hit in answer["hits"]}
    assert answer["hits"] == [hit for hit in truth["hits"] if hit["source"] in there]
    assert 0 < len(there) < len(truth["hits"])


def test_one_copy_of_a_part_killed_ten_times_costs_no_answer(index: Path, tell: Tell) -> None:
    asked = question(index, 200)
    took, late = [], 0
    with (
        serving(index, shape="sharded", parts=2, part_replicas={"least": 2}, deadline_ms=10_000) as service,
        Clients(service.address, [asked]) as clients,
    ):
        for kill in range(KILLS):
            copies = service.replicas("part-1")
            assert len(copies) == 2
            os.kill(copies[kill % 2], signal.SIGKILL)
            started = time.monotonic()
            until(lambda gone=copies[kill % 2]: healed(service, gone), 120, "the copy did not come back")
            took.append(time.monotonic() - started)
            time.sleep(1)
    late = sum(answer["partial"] for _, status, answer in clients.answers if status == 200)
    tell(
        "one copy of a part killed",
        tried=KILLS,
        answers=len(clients.answers),
        not_200=sum(status != 200 for _, status, _ in clients.answers),
        partial=late,
        median_ms=int(1e3 * statistics.median(took)),
        slowest_ms=int(1e3 * max(took)),
    )
    assert clients.statuses == {200} and late == 0
    assert max(took) < 30  # 15 where nothing else runs; a busy machine may take twice that


def healed(service: Service, gone: int) -> bool:
    copies = service.replicas("part-1")
    return len(copies) == 2 and gone not in copies and service.running("part-1") == 2


def test_a_part_that_sleeps_costs_the_deadline_and_no_more(index: Path, tell: Tell) -> None:
    asked, deadline_s, took = question(index, 200), 0.5, []
    with (
        serving(index, shape="sharded", parts=2, deadline_ms=1e3 * deadline_s) as service,
        httpx.Client(base_url=service.address, timeout=30) as client,
    ):
        until(lambda: whole(client, asked), 120, "no whole answer")
        truth = client.post("/v1/search", **asked).json()
        [copy] = service.replicas("part-1")
        os.kill(copy, signal.SIGSTOP)
        for _ in range(ASLEEP):
            start = time.monotonic()
            response = client.post("/v1/search", **asked)
            took.append(time.monotonic() - start)
            assert response.status_code == 200
            rest_of(truth, response.json())
        os.kill(copy, signal.SIGCONT)
        awake = until(lambda: whole(client, asked), 30, "no whole answer")
        assert client.post("/v1/search", **asked).json()["hits"] == truth["hits"]
        assert service.replicas("part-1") == [copy]
    tell(
        f"a part asleep, deadline {1e3 * deadline_s:.0f} ms",
        tried=ASLEEP,
        fastest_ms=int(1e3 * min(took)),
        median_ms=int(1e3 * statistics.median(took)),
        slowest_ms=int(1e3 * max(took)),
        whole_again_ms=int(1e3 * awake),
    )
    assert all(abs(seconds - deadline_s) <= 0.05 for seconds in took), sorted(took)


@pytest.mark.parametrize("shape", ["whole", "sharded"])
def test_twenty_versions_under_load(index: Path, shape: str, tell: Tell) -> None:
    """Versions differ in the nearest image. Every other one is taken up by a reload, the rest by watching."""
    asked, wanted = question(index, 5), vector(index)
    expected: dict[str, list[str]] = {}

    def remember() -> str:
        now = Index.open(index)
        found = now.search(wanted[None], k=5, exact=True)[0]
        expected[now.version] = [hit.id for hit in found.hits]
        return now.version

    with (
        serving(
            index,
            shape=shape,
            parts=2 if shape == "sharded" else None,
            replicas={"least": 2},
            part_replicas={"least": 2},
            deadline_ms=10_000,
            watch_s=0.5,
        ) as service,
        httpx.Client(base_url=service.address, timeout=60) as client,
        Clients(service.address, [asked]) as clients,
    ):
        version = remember()
        until(lambda: newest(clients) == version, 120, "no answer")
        for number in range(VERSIONS):
            delete(index, [expected[version][0]])
            version = remember()
            if number % 2:
                headers = {"authorization": f"Bearer {ADMIN}"}
                reloaded = client.post("/v1/admin/reload", headers=headers)
                assert reloaded.json() == {"index_version": version}
            until(lambda now=version: newest(clients) == now, 120, "the version was not taken up")
    seen = {answer["index_version"] for _, status, answer in clients.answers if status == 200}
    mixed = sum(
        [hit["id"] for hit in answer["hits"]] != expected[answer["index_version"]]
        for _, status, answer in clients.answers
        if status == 200
    )
    failed = sum(status != 200 for _, status, _ in clients.answers)
    tell(f"versions, {shape}", tried=VERSIONS, answers=len(clients.answers), failed=failed, mixed=mixed)
    assert (failed, mixed) == (0, 0) and seen == set(expected)


def newest(clients: Clients) -> str:
    return str(clients.answers[-1][2].get("index_version")) if clients.answers else ""


def test_an_encoder_apart_dies_under_load_and_is_replaced(index: Path, tell: Tell) -> None:
    asked = {"content": picture(3), "headers": {"content-type": "image/png"}}
    with serving(index, shape="whole") as service:
        inside = httpx.post(f"{service.address}/v1/search", **asked, timeout=30).json()
    took = []
    with (
        serving(index, shape="whole", encoder={"apart": True}) as service,
        httpx.Client(base_url=service.address, timeout=60) as client,
    ):
        apart = client.post("/v1/search", **asked).json()
        assert apart["hits"] == inside["hits"]
        with Clients(service.address, [asked]) as clients:
            for _ in range(KILLS):
                [copy] = service.replicas("encoder")
                os.kill(copy, signal.SIGKILL)
                until(lambda gone=copy: service.replicas("encoder") not in ([], [gone]), 120, "not replaced")
                start = time.monotonic()
                until(lambda: client.post("/v1/search", **asked).status_code == 200, 120, "not back")
                took.append(time.monotonic() - start)
            gone = apart["hits"][0]["id"]
            delete(index, [gone])
            version = Index.open(index).version
            headers = {"authorization": f"Bearer {ADMIN}"}
            assert client.post("/v1/admin/reload", headers=headers).json() == {"index_version": version}
            after = client.post("/v1/search", **asked).json()
            kept = [hit["id"] for hit in apart["hits"] if hit["id"] != gone]
            assert after["index_version"] == version
            assert [hit["id"] for hit in after["hits"]][: len(kept)] == kept
    statuses = Counter(status for _, status, _ in clients.answers)
    tell(
        "an encoder apart killed",
        tried=KILLS,
        answered=statuses[200],
        refused=statuses[503],
        slowest_ms=int(1e3 * max(took)),
    )
    assert set(statuses) <= {200, 503}
