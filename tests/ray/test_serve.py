"""`ucdr serve` as a user starts it: real Ray, real HTTP, replicas that are killed, versions that change."""

import json
import os
import signal
import subprocess
import time

import httpx
import pytest

from tests.served import ADMIN, UCDR, Clients, replicas, served
from tests.tiny import make_catalog, make_embeddings, picture
from ucdr_ray.index.build import build
from ucdr_ray.index.change import delete, rollback
from ucdr_ray.index.search import Index


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    catalog = make_catalog(root / "catalog", {"photo": 40, "sketch": 23})
    embeddings = make_embeddings(root / "embeddings", catalog)
    build(embeddings, catalog, root / "index", rows_per_shard=16)
    return embeddings, root / "index"


def test_the_whole_index_is_served_and_changes_under_load(world, tmp_path):
    embeddings, index = world
    vector = embeddings.vectors("photo")[7]
    body = {"vector": vector.tolist(), "k": 5}
    with served(index, "--shape", "whole") as (address, _):
        with httpx.Client(base_url=address, timeout=30) as client:
            first = Index.open(index).search(vector[None], k=5)[0]
            answer = client.post("/v1/search", json=body).json()
            assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in first.hits]
            assert answer["index_version"] == first.index_version
            form = client.post("/v1/search", files={"image": ("a.png", picture(3))}, data={"k": "3"})
            assert form.status_code == 200 and len(form.json()["hits"]) == 3
            thumbnail = client.get(f"/v1/images/{answer['hits'][0]['id']}")
            assert thumbnail.headers["content-type"] == "image/png"
            assert client.get("/").headers["content-type"].startswith("text/html")
            assert client.post("/v1/search", json=body, headers={"host": "evil.example"}).status_code == 400
            assert client.post("/v1/admin/reload").status_code == 401
            with Clients(address, [{"json": body}]) as clients:
                expected = {first.index_version: [hit.id for hit in first.hits]}
                for _ in range(2):
                    time.sleep(0.5)
                    delete(index, [expected[Index.open(index).version][0]])
                    now = Index.open(index)
                    expected[now.version] = [hit.id for hit in now.search(vector[None], k=5)[0].hits]
                    reloaded = client.post("/v1/admin/reload", headers={"authorization": f"Bearer {ADMIN}"})
                    assert reloaded.json() == {"index_version": now.version}
                time.sleep(0.5)
        assert clients.statuses == {200}
        seen = {answer["index_version"] for _, _, answer in clients.answers}
        assert seen == set(expected)
        for _, _, answer in clients.answers:
            assert [hit["id"] for hit in answer["hits"]] == expected[answer["index_version"]]


def test_a_part_that_is_killed_costs_no_answer(world):
    embeddings, index = world
    vectors = [embeddings.vectors("photo")[7], embeddings.vectors("sketch")[3]]
    bodies = [{"vector": vector.tolist(), "k": 64} for vector in vectors]
    with served(index, "--shape", "sharded", "--parts", "2", "--deadline-ms", "10000") as (address, service):
        with httpx.Client(base_url=address, timeout=30) as client:
            truth = [client.post("/v1/search", json=body).json() for body in bodies]
            wanted = Index.open(index).search(vectors[0][None], k=64, exact=True)[0]
            assert [hit["source"] for hit in truth[0]["hits"]] == [hit.source for hit in wanted.hits]
            with Clients(address, [{"json": body} for body in bodies]) as clients:
                time.sleep(1)
                [victim] = replicas(service, "part-1")
                os.kill(victim, signal.SIGKILL)
                killed = time.monotonic()
                while time.monotonic() < killed + 30:
                    time.sleep(0.5)
                    after = [answer for at, _, answer in clients.answers if at > time.monotonic() - 0.4]
                    if (
                        replicas(service, "part-1") not in ([], [victim])
                        and after
                        and not any(a["partial"] for a in after)
                    ):
                        break
                else:
                    pytest.fail("the part did not come back")
            used, now = truth[0]["index_version"], delete(index, [truth[0]["hits"][0]["id"]])
            next(now.folder.rglob("deleted.parquet")).write_bytes(b"")
            told = client.post("/v1/admin/reload", headers={"authorization": f"Bearer {ADMIN}"})
            assert told.status_code == 409 and "deleted.parquet does not match" in told.json()["error"]
            assert client.post("/v1/search", json=bodies[0]).json()["index_version"] == used
            rollback(index)
        assert clients.statuses == {200}
        whole = [answer for _, _, answer in clients.answers if not answer["partial"]]
        for answer in whole:
            assert answer["hits"] in [one["hits"] for one in truth]
        print(json.dumps({"answers": len(clients.answers), "partial": len(clients.answers) - len(whole)}))


def test_what_cannot_be_served_is_one_line(tmp_path, world):
    for arguments, words in (
        ([tmp_path / "nothing"], "no index at"),
        ([world[1], "--shape", "whole", "--parts", "2"], "sharded"),
        ([world[1], "--memory", "much"], "memory"),
        ([world[1], "--tokens", tmp_path / "none"], "cannot read the tokens"),
    ):
        ended = subprocess.run([UCDR, "serve", *arguments], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 2 and words in ended.stderr.splitlines()[-1], ended.stderr
        assert "Traceback" not in ended.stderr
