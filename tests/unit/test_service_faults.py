"""Dead and slow parts, deadlines and overload: what the service promises then, without Ray."""

import asyncio
import shutil
import time

import numpy as np
import pytest

from serve.app import parts_of
from serve.messages import Answer
from serve.settings import ServiceSettings
from serve.watching import Watcher
from tests.serving import Site, ask
from tests.tiny import picture
from ucdr_ray.index.plan import WORK
from ucdr_ray.index.search import Index


def query(world, **wishes):
    return {"json": {"vector": world.embeddings.vectors("photo")[7].tolist(), "k": 5} | wishes}


async def dead():
    raise ConnectionError("no such replica")


async def asleep():
    await asyncio.sleep(30)


@pytest.mark.parametrize("fault", [dead, asleep])
def test_what_a_part_does_not_answer_is_marked_or_refused(world, fault):
    for policy in ("partial", "strict"):
        site = Site(world.index, 3, when_down=policy, deadline_ms=300)
        assert ask(site, "/v1/search", **query(world)).status_code == 200
        whole = Answer.model_validate_json(ask(site, "/v1/search", **query(world, k=64)).content)
        site.parts[1].before = fault
        start = time.perf_counter()
        response = ask(site, "/v1/search", **query(world, k=64))
        took = time.perf_counter() - start
        if fault is asleep:
            assert 0.2 < took < 2
        if policy == "strict":
            assert response.status_code == 503 and response.headers["retry-after"]
            assert "shards answered in time" in response.json()["error"]
            continue
        answer = Answer.model_validate_json(response.content)
        assert answer.partial and answer.shards.answered < answer.shards.total == whole.shards.total
        there = [hit for hit in whole.hits if hit.source in {found.source for found in answer.hits}]
        assert there == answer.hits and 0 < len(answer.hits) < len(whole.hits)
        site.parts[1].before = None
        assert not Answer.model_validate_json(ask(site, "/v1/search", **query(world)).content).partial


def test_when_no_part_answers_there_is_no_answer(world):
    site = Site(world.index, 3, deadline_ms=300)
    for part in site.parts:
        part.before = dead
    response = ask(site, "/v1/search", **query(world))
    assert response.status_code == 503 and response.json()["error"].startswith("0 of ")


def test_a_slow_part_does_not_stop_others_questions(world):
    """Questions about domains that the slow part does not hold are answered at once, while others wait for it."""
    site = Site(world.index, 3, deadline_ms=3000)
    holders = [{entry.domain for entry in group} for group in site.searcher.newest.manifest.parts(3)]
    [alone] = [number for number, domains in enumerate(holders) if "Real World" in domains]
    slow = next(number for number in range(3) if number != alone)
    site.parts[slow].before = asleep

    async def both():
        async with site.client() as client:
            waiting = [asyncio.create_task(client.post("/v1/search", **query(world))) for _ in range(40)]
            await asyncio.sleep(0.3)
            start = time.perf_counter()
            answer = await client.post("/v1/search", **query(world, domains=["Real World"]))
            took = time.perf_counter() - start
            answers = await asyncio.gather(*waiting)
            return answer, took, answers

    answer, took, answers = asyncio.run(both())
    assert answer.status_code == 200 and took < 1.5
    assert all(response.status_code == 200 and response.json()["partial"] for response in answers)


def test_a_deadline_that_passes_is_said(world):
    site = Site(world.index, deadline_ms=200)

    async def slow(_):
        await asyncio.sleep(30)

    site.searcher.search = slow
    took = []
    for _ in range(3):
        start = time.perf_counter()
        response = ask(site, "/v1/search", **query(world))
        took.append(time.perf_counter() - start)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "within the deadline of 200 ms" in response.json()["error"]
    assert min(took) < 1


def test_what_is_too_much_is_told_to_come_back(world):
    site = Site(world.index, queue=3)
    search = site.searcher.search

    async def slow(questions):
        await asyncio.sleep(0.2)
        return await search(questions)

    site.searcher.search = slow

    async def many():
        async with site.client() as client:
            first = await asyncio.gather(*(client.post("/v1/search", **query(world)) for _ in range(10)))
            return first, await client.post("/v1/search", **query(world))

    answers, later = asyncio.run(many())
    codes = sorted(response.status_code for response in answers)
    assert codes == [200] * 3 + [429] * 7 and later.status_code == 200
    assert all(response.headers["retry-after"] for response in answers if response.status_code == 429)


def test_what_a_living_part_has_is_shown_while_another_is_silent(world):
    """Of two parts one sleeps, the other is asked by id and for a thumbnail; then the one that has it sleeps."""
    site = Site(world.index, 2, deadline_ms=1_000)
    rows = [(part, part._library.newest) for part in site.parts]
    ids = [
        next(iter(index.domain(name).live()[1])).decode()
        for _, index in rows
        for name in index.manifest.domains
        if index.domain(name).shards
    ]
    holders = [next(part for part, index in rows if index.find(id_) is not None) for id_ in ids]
    for id_, holder in zip(ids, holders, strict=True):
        for part, _ in rows:
            part.before = None if part is holder else asleep
        start = time.perf_counter()
        assert ask(site, f"/v1/images/{id_}", "GET").status_code == 200
        assert time.perf_counter() - start < 0.9
        holder.before = asleep
        assert ask(site, f"/v1/images/{id_}", "GET").status_code == 503


def test_an_answer_without_all_shards_does_not_say_that_nothing_matches_in_them(world):
    site = Site(world.index, 2)
    site.parts[0].before = dead
    answer = ask(site, "/v1/search", **query(world, min_score=1.0, k=64)).json()
    assert answer["partial"] and answer["shards"]["answered"] < answer["shards"]["total"]
    if answer["null"] is not None:
        assert f"only {answer['shards']['answered']} of" in answer["null"]["reason"]
    assert not any("all of them" in note for note in answer["notes"])


def test_who_goes_away_is_counted_as_such(world):
    """Neither as an error of the service nor as no status at all."""
    site = Site(world.index)

    async def gone_while_sending():
        return {"type": "http.disconnect"}

    async def send(_):
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/search",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }

    async def given_up():
        await site.app(scope, gone_while_sending, send)
        task = asyncio.ensure_future(site.app(scope, lambda: asyncio.sleep(30), send))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with site.client() as client:
            return (await client.get("/metrics")).text

    counted = [
        line for line in asyncio.run(given_up()).splitlines() if line.startswith("ucdr_requests_total")
    ]
    assert len(counted) == 1 and 'status="499"' in counted[0] and counted[0].endswith(" 2.0")


def test_as_many_parts_as_keep_each_within_its_memory(world):
    manifest = Index.open(world.index).manifest
    sizes = [entry.memory for entry in manifest.shards]
    for memory in (WORK + size for size in (max(sizes), max(sizes) + min(sizes), sum(sizes))):
        settings = ServiceSettings(index=world.index, shape="sharded", memory=memory)
        parts = parts_of(settings, manifest)

        def largest(count):
            return WORK + max(sum(entry.memory for entry in group) for group in manifest.parts(count))

        assert largest(parts) <= memory and (parts == 1 or largest(parts - 1) > memory)
    assert parts_of(ServiceSettings(index=world.index, shape="sharded", memory=1), manifest) == len(sizes)


def test_parts_hold_every_shard_once_and_are_alike_in_size(world):
    manifest = Index.open(world.index).manifest
    for parts in (1, 2, 3, 20):
        groups = manifest.parts(parts)
        together = sorted(entry.vectors.file for group in groups for entry in group)
        assert together == sorted(entry.vectors.file for entry in manifest.shards)
        sizes = [sum(entry.bytes for entry in group) for group in groups if group]
        assert np.ptp(sizes) <= max(entry.bytes for entry in manifest.shards)


@pytest.mark.parametrize("parts", [0, 2])
def test_what_is_loaded_answers_without_the_index_folder(tmp_path, world, parts):
    shutil.copytree(world.index, tmp_path / "index")
    site = Site(tmp_path / "index", parts)
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    examples = ask(site, "/v1/examples", "GET")
    assert examples.status_code == 200
    id_ = examples.json()["examples"][0]["id"]
    assert ask(site, f"/v1/images/{id_}", "GET").status_code == 200
    for question in ({"json": {"id": id_}}, {"files": {"image": ("a.png", picture(1))}}, query(world)):
        assert ask(site, "/v1/search", **question).status_code == 200


def test_what_goes_wrong_again_and_again_is_said_once(tmp_path, world, caplog):
    tries = 0

    async def fail() -> str:
        nonlocal tries
        tries += 1
        raise RuntimeError("a copy died")

    async def watch() -> None:
        Watcher(world.index, 0.01, fail).start()
        await asyncio.sleep(0.3)

    asyncio.run(watch())
    assert tries > 2 and caplog.text.count("the version in use stays: RuntimeError") == 1


def test_an_index_that_is_gone_is_refused_at_the_start(tmp_path, world):
    shutil.copytree(world.index, tmp_path / "index")
    (tmp_path / "index" / "CURRENT").unlink()
    with pytest.raises(Exception, match="no index at"):
        Site(tmp_path / "index")
