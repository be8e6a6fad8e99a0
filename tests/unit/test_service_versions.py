"""New versions while the service runs: taken up whole, by everybody, or by nobody; without Ray."""

import asyncio
import time

import pytest

from serve.library import Library
from serve.messages import Answer
from serve.watching import Watcher
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


def test_a_part_that_cannot_take_a_version_up_keeps_everybody_from_it(world, copy):
    site = Site(copy, 2, admin=(ADMIN,))
    first = Index.open(copy).version
    delete(copy, [world.catalog.read("photo", ["id"])["id"][9].as_py()])

    async def full():
        raise MemoryError

    refresh, site.parts[1].refresh = site.parts[1].refresh, full
    assert ask(site, "/v1/admin/reload", headers=HEADERS).status_code == 500
    assert ask(site, "/v1/search", **query(world)).json()["index_version"] == first
    site.parts[1].refresh = refresh
    assert ask(site, "/v1/admin/reload", headers=HEADERS).status_code == 200


def test_the_encoder_has_a_version_before_questions_go_to_it(world, copy, parts):
    site = Site(copy, parts, admin=(ADMIN,))
    first = Index.open(copy).version
    delete(copy, [world.catalog.read("photo", ["id"])["id"][9].as_py()])

    async def refuses():
        raise UserError("foreign encoder")

    site.service._encoding.prepare = refuses
    assert ask(site, "/v1/admin/reload", headers=HEADERS).status_code == 409
    assert ask(site, "/v1/search", **query(world)).json()["index_version"] == first


def test_no_more_than_two_versions_are_in_memory(world, copy):
    held, made = [], []
    library = Library(copy, prepare=lambda index: held.append(len(made[0].held) if made else 0))
    made.append(library)
    for number in range(3):
        delete(copy, [world.catalog.read("photo", ["id"])["id"][number].as_py()])
        library.refresh()
        assert len(library.held) == 2 and library.newest.version == Index.open(copy).version
    assert held == [0, 1, 1, 1], "while one is loaded, one is there"


def test_what_could_not_be_read_is_tried_again_after_a_while(copy, monkeypatch):
    monkeypatch.setattr("serve.watching._REST", 3)
    tried = []

    async def refresh():
        tried.append(time.monotonic())
        if len(tried) == 1:
            raise UserError("damaged index: cannot read it")
        return Index.open(copy).version

    async def watched():
        watcher = Watcher(copy, 0.05, refresh)
        watcher.start()
        await asyncio.sleep(0.8)

    asyncio.run(watched())
    assert len(tried) == 2 and tried[1] - tried[0] >= 0.15
