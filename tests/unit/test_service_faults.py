"""New versions, dead and slow parts, deadlines and overload: what the service promises then, without Ray."""

import asyncio
import shutil
import time
from contextvars import ContextVar

import numpy as np
import pytest

from serve.batching import Batcher
from serve.messages import Answer
from serve.refusal import Refusal
from tests.serving import SHAPES, Site, ask
from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.index.build import build
from ucdr_ray.index.change import delete, rollback
from ucdr_ray.index.search import Index

ADMIN = "a-token-for-the-admin"
HEADERS = {"authorization": f"Bearer {ADMIN}"}


def query(world, **wishes):
    return {"json": {"vector": world.embeddings.vectors("photo")[7].tolist(), "k": 5} | wishes}


@pytest.fixture(params=SHAPES)
def parts(request) -> int:
    return request.param


def test_a_new_version_is_taken_up_and_rolled_back(world, copy, parts):
    site = Site(copy, parts, admin=(ADMIN,))
    first = Index.open(copy).version
    found = Answer.model_validate_json(ask(site, "/v1/search", **query(world)).content)
    delete(copy, [found.hits[0].id])
    second = Index.open(copy).version
    before = Answer.model_validate_json(ask(site, "/v1/search", **query(world)).content)
    assert (before.index_version, before.hits) == (first, found.hits)
    assert ask(site, "/v1/admin/reload", headers=HEADERS).json() == {"index_version": second}
    after = Answer.model_validate_json(ask(site, "/v1/search", **query(world)).content)
    assert after.index_version == second and found.hits[0].id not in [hit.id for hit in after.hits]
    assert ask(site, f"/v1/images/{found.hits[0].id}", "GET").status_code == 404
    rollback(copy, first)
    assert ask(site, "/v1/admin/reload", headers=HEADERS).json() == {"index_version": first}
    assert Answer.model_validate_json(ask(site, "/v1/search", **query(world)).content).hits == found.hits


def test_no_answer_mixes_versions_while_they_change(world, copy, parts):
    """Versions differ in one image each, the nearest: an answer holds exactly those of its own version."""
    site = Site(copy, parts, admin=(ADMIN,), deadline_ms=30_000)
    expected = {}

    def remember():
        index = Index.open(copy)
        vector = world.embeddings.vectors("photo")[7]
        expected[index.version] = [hit.id for hit in index.search(vector[None], k=5, exact=True)[0].hits]

    async def clients():
        answers = []
        async with site.client() as client:

            async def loop():
                while not done.is_set():
                    answers.append(await client.post("/v1/search", **query(world)))
                    await asyncio.sleep(0)

            done = asyncio.Event()
            loops = [asyncio.create_task(loop()) for _ in range(4)]
            for _ in range(4):
                await asyncio.sleep(0.1)
                await asyncio.to_thread(lambda: delete(copy, [expected[Index.open(copy).version][0]]))
                await asyncio.to_thread(remember)
                for part in site.parts[:1]:
                    await part.refresh()  # one copy is ahead of the others, as replicas are
                    await asyncio.sleep(0.05)
                assert (await client.post("/v1/admin/reload", headers=HEADERS)).status_code == 200
            await asyncio.sleep(0.1)
            done.set()
            await asyncio.gather(*loops)
        return answers

    remember()
    answers = asyncio.run(clients())
    assert {response.status_code for response in answers} == {200}
    versions = set()
    for response in answers:
        answer = Answer.model_validate_json(response.content)
        versions.add(answer.index_version)
        assert [hit.id for hit in answer.hits] == expected[answer.index_version]
    assert len(versions) >= 3


def test_a_damaged_version_is_not_taken_up(world, copy, parts):
    site = Site(copy, parts, admin=(ADMIN,))
    first = Index.open(copy).version
    catalog = make_catalog(copy.parent / "catalog", {"photo": 12})
    index = build(make_embeddings(copy.parent / "embeddings", catalog), catalog, copy)
    vectors = index.folder / index.manifest.shards[0].vectors.file
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"x")
    response = ask(site, "/v1/admin/reload", headers=HEADERS)
    assert response.status_code == 409 and "does not match its checksum" in response.json()["error"]
    assert str(copy) not in response.json()["error"]
    answer = Answer.model_validate_json(ask(site, "/v1/search", **query(world)).content)
    assert answer.index_version == first


def test_a_version_whose_encoder_cannot_be_loaded_is_not_taken_up(world, copy, parts):
    site = Site(copy, parts, admin=(ADMIN,))
    first = Index.open(copy).version
    delete(copy, [world.catalog.read("photo", ["id"])["id"][9].as_py()])
    with pytest.MonkeyPatch.context() as patch:

        def broken(_):
            raise UserError(f"foreign encoder in {copy}/versions")

        patch.setattr(site.searcher._library, "_prepare", broken)
        response = ask(site, "/v1/admin/reload", headers=HEADERS)
        assert response.status_code == 409 and response.json()["error"] == "foreign encoder in versions"
    assert ask(site, "/v1/search", **query(world)).json()["index_version"] == first
    assert ask(site, "/v1/admin/reload", headers=HEADERS).status_code == 200


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
    holders = [
        {entry.domain for entry in site.searcher.newest.manifest.part(number, 3)} for number in range(3)
    ]
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


def test_parts_hold_every_shard_once_and_are_alike_in_size(world):
    manifest = Index.open(world.index).manifest
    for parts in (1, 2, 3, 20):
        groups = [manifest.part(number, parts) for number in range(parts)]
        together = sorted(entry.vectors.file for group in groups for entry in group)
        assert together == sorted(entry.vectors.file for entry in manifest.shards)
        sizes = [sum(entry.bytes for entry in group) for group in groups if group]
        assert np.ptp(sizes) <= max(entry.bytes for entry in manifest.shards)


def test_an_index_that_is_gone_is_refused_at_the_start(tmp_path, world):
    shutil.copytree(world.index, tmp_path / "index")
    (tmp_path / "index" / "CURRENT").unlink()
    with pytest.raises(Exception, match="no index at"):
        Site(tmp_path / "index")
