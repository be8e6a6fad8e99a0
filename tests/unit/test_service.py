"""The service's answers: the same as those of the index, whatever the shape and however one asks."""

import asyncio

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.messages import Answer, BatchAnswer, IndexInfo
from tests.serving import SHAPES, Site, ask
from tests.tiny import picture
from ucdr_ray.images import to_array
from ucdr_ray.index.search import Index


@pytest.fixture(scope="module", params=SHAPES)
def site(world, request) -> Site:
    return Site(world.index, request.param)


@pytest.fixture(scope="module")
def whole(world) -> Site:
    return Site(world.index)


def vectors(world, count):
    domains = [domain.name for domain in world.embeddings.domains]
    rows = np.concatenate([world.embeddings.vectors(name) for name in domains])
    return rows[np.random.default_rng(0).choice(len(rows), count)]


def expected(world, vector, domains, k):
    answer = Index.open(world.index).search(vector[None], domains, k, exact=True)[0]
    return (
        [(hit.domain, hit.id, hit.score, hit.source) for hit in answer.hits],
        {name: [(hit.id, hit.score) for hit in hits] for name, hits in answer.by_domain.items()},
    )


def told(found):
    return (
        [(hit.domain, hit.id, hit.score, hit.source) for hit in found.hits],
        {name: [(hit.id, hit.score) for hit in hits] for name, hits in found.by_domain.items()},
    )


@pytest.mark.parametrize("domains", [None, ["photo"], ["sketch", "Real World"]])
@pytest.mark.parametrize("k", [1, 10, 30])
def test_answers_are_those_of_the_index_in_every_shape(world, site, domains, k):
    vector = vectors(world, 1)[0]
    response = ask(site, "/v1/search", json={"vector": vector.tolist(), "domains": domains, "k": k})
    assert response.status_code == 200
    answer = Answer.model_validate_json(response.content)
    assert told(answer) == expected(world, vector, domains, k)
    shards = [
        entry
        for entry in Index.open(world.index).manifest.shards
        if domains is None or entry.domain in domains
    ]
    assert (answer.shards.answered, answer.shards.total, answer.partial) == (len(shards), len(shards), False)
    assert answer.index_version == Index.open(world.index).version
    assert any("has only 1 images" in note for note in answer.notes) == (
        k > 1 and (domains or ["Real World"])[-1] == "Real World"
    )


def test_an_image_can_come_as_a_form_or_bare(world, site):
    image = picture(3)
    encoder = Index.open(world.index).encoder
    import torch

    vector = encoder.encode(torch.from_numpy(to_array(image, encoder.size, encoder.resize))[None])[0].numpy()
    wanted = expected(world, vector, ["photo", "sketch"], 4)
    form = ask(
        site, "/v1/search", files={"image": ("a.png", image)}, data={"domains": ["photo", "sketch"], "k": "4"}
    )
    bare = ask(
        site,
        "/v1/search?domains=photo,sketch&k=4",
        content=image,
        headers={"content-type": "application/octet-stream"},
    )
    for response in (form, bare):
        answer = Answer.model_validate_json(response.content)
        assert [hit[:2] for hit in told(answer)[0]] == [hit[:2] for hit in wanted[0]]
        assert answer.timings_ms.decode > 0 and answer.timings_ms.encode > 0


def test_one_can_search_from_an_image_of_the_index(world, site):
    id_ = world.catalog.read("photo", ["id"])["id"][5].as_py()
    answer = Answer.model_validate_json(ask(site, "/v1/search", json={"id": id_, "k": 3}).content)
    assert (answer.hits[0].id, round(answer.hits[0].score, 6)) == (id_, 1.0)
    assert told(answer) == expected(world, world.embeddings.vectors("photo")[5], None, 3)


def test_a_batch_answers_as_its_queries_would_alone(world, site):
    rows = vectors(world, 7)
    response = ask(site, "/v1/search:batch", json={"vectors": rows.tolist(), "k": 5})
    answer = BatchAnswer.model_validate_json(response.content)
    assert [told(found) for found in answer.results] == [expected(world, row, None, 5) for row in rows]


def test_many_at_once_get_their_own_answers(world, site):
    rows = vectors(world, 40)
    wishes = [
        {"k": 1 + number % 3, "domains": [["photo"], ["sketch"], None][number % 3]} for number in range(40)
    ]

    async def all_at_once():
        async with site.client() as client:
            asked = (
                client.post("/v1/search", json={"vector": row.tolist(), **wish})
                for row, wish in zip(rows, wishes, strict=True)
            )
            return await asyncio.gather(*asked)

    for response, row, wish in zip(asyncio.run(all_at_once()), rows, wishes, strict=True):
        answer = Answer.model_validate_json(response.content)
        assert told(answer) == expected(world, row, wish["domains"], wish["k"])


def test_nothing_here_matches_is_said_with_its_reason(world, whole):
    vector = world.embeddings.vectors("photo")[0]
    best = expected(world, vector, ["sketch"], 1)[0][0][2]
    asked = {"vector": vector.tolist(), "domains": ["sketch"]}
    answer = Answer.model_validate_json(ask(whole, "/v1/search", json=asked | {"min_score": 1}).content)
    found = Answer.model_validate_json(
        ask(whole, "/v1/search", json=asked | {"min_score": best - 0.01}).content
    )
    assert answer.hits == [] and answer.by_domain == {"sketch": []}
    assert answer.null and f"the nearest scores {best:.3f}" in answer.null.reason
    assert found.null is None and all(hit.score >= best - 0.01 for hit in found.hits) and found.hits


def test_thumbnails_are_served_as_browsers_show_them(world, site):
    row = world.catalog.read("sketch", ["id", "image"]).slice(4, 1)
    response = ask(site, f"/v1/images/{row['id'][0].as_py()}", "GET")
    assert response.content == row["image"][0].as_py()
    assert response.headers["content-type"] == "image/png"
    assert ask(site, f"/v1/images/{row['id'][0].as_py()}?domain=sketch", "GET").content == response.content
    assert ask(site, f"/v1/images/{row['id'][0].as_py()}?domain=photo", "GET").status_code == 404
    assert ask(site, f"/v1/images/{row['id'][0].as_py()}?domain=nowhere", "GET").status_code == 404


def test_the_service_says_what_it_serves(world, site):
    info = IndexInfo.model_validate_json(ask(site, "/v1/index", "GET").content)
    assert {name: domain.images for name, domain in info.domains.items()} == {
        "Real World": 1,
        "photo": 40,
        "sketch": 23,
    }
    assert info.images == 64 and info.limits["k"] == 1000
    assert ask(site, "/healthz", "GET").status_code == ask(site, "/readyz", "GET").status_code == 200
    examples = ask(site, "/v1/examples", "GET").json()["examples"]
    assert {example["domain"] for example in examples} == set(info.domains)
    for example in examples:
        assert ask(site, f"/v1/images/{example['id']}?domain={example['domain']}", "GET").status_code == 200


def test_every_phase_and_request_is_counted(world):
    site = Site(world.index)
    for _ in range(3):
        ask(site, "/v1/search", files={"image": ("a.png", picture(1))})
    ask(site, "/v1/search", json={"id": "nobody"})
    ask(site, "/nowhere/at/all", "GET")
    samples = {
        (
            sample.name,
            sample.labels.get("phase") or sample.labels.get("route"),
            sample.labels.get("status"),
        ): sample.value
        for family in text_string_to_metric_families(ask(site, "/metrics", "GET").text)
        for sample in family.samples
    }
    assert samples["ucdr_phase_seconds_count", "decode", None] == 3
    assert {phase for name, phase, _ in samples if name == "ucdr_phase_seconds_count"} == {
        *("decode", "encode", "search", "total")
    }
    assert samples["ucdr_requests_total", "/v1/search", "200"] == 3
    assert samples["ucdr_requests_total", "/v1/search", "404"] == 1
    assert samples["ucdr_requests_total", "other", "404"] == 1
