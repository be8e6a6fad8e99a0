"""Over HTTP: what the index lacks is said, with its reason, and can be turned off."""

import json

import numpy as np
import pytest

from serve.messages import Answer, BatchAnswer
from tests.categories import built_index
from tests.serving import Site, ask
from tests.tiny import picture


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return built_index(tmp_path_factory.mktemp("open"))


def sketch(built, category: int) -> list[float]:
    embeddings, _, _, labels = built
    return embeddings.vectors("sketch")[np.flatnonzero(labels["sketch"] == category)[0]].tolist()


@pytest.mark.parametrize("parts", [0, 2])
def test_what_the_gallery_lacks_is_null_with_its_reason_and_what_it_has_is_found(built, parts):
    site = Site(built[2], parts)
    assert ask(site, "/v1/index", "GET").json()["judges"] is True
    wishes = {"domains": ["photo"], "query_domain": "sketch"}
    for category in range(8):
        answer = ask(site, "/v1/search", json={"vector": sketch(built, category)} | wishes)
        found = Answer.model_validate_json(answer.content)
        assert found.judged.query_domain == "sketch" and not found.judged.inferred
        verdict = found.judged.by_domain["photo"]
        if category < 6:
            assert found.null is None and len(found.hits) == 10
            assert verdict.threshold is not None and not verdict.null
        else:
            assert found.null.reason == "images of sketch like this one have no counterpart in photo"
            assert found.hits == [] and found.by_domain == {"photo": []} and verdict.threshold is None


def test_only_the_domains_that_lack_it_are_emptied(built):
    site = Site(built[2])
    found = ask(site, "/v1/search", json={"vector": sketch(built, 7), "query_domain": "sketch"}).json()
    assert found["null"] is None and found["by_domain"]["photo"] == []
    assert {hit["domain"] for hit in found["hits"]} == {"sketch"}
    assert found["judged"]["by_domain"]["photo"]["null"] and "sketch" not in found["judged"]["by_domain"]


def test_an_image_of_the_index_is_judged_by_its_own_domain(built):
    embeddings, _, path, _ = built
    id_ = embeddings.ids("sketch").to_pylist()[-1]
    found = ask(Site(path), "/v1/search", json={"id": id_, "domains": ["photo"]}).json()
    assert found["judged"]["query_domain"] == "sketch" and found["judged"]["inferred"] is False


@pytest.mark.parametrize("parts", [0, 2])
def test_it_can_be_turned_off_in_every_way_of_asking(built, parts):
    site = Site(built[2], parts)
    query = {"vector": sketch(built, 7), "domains": ["photo"]}
    image = {"image": ("a.png", picture(1))}
    for response in (
        ask(site, "/v1/search", json=query | {"null": "off"}),
        ask(site, "/v1/search?null=off", json=query),
        ask(site, "/v1/search?null=off", files=image),
        ask(site, "/v1/search", files=image, data={"null": "off"}),
        ask(site, "/v1/search?null=off", content=picture(1), headers={"content-type": "image/png"}),
    ):
        assert response.status_code == 200
        assert (
            response.json()["judged"] is None and response.json()["null"] is None and response.json()["hits"]
        )
    assert ask(site, "/v1/search", files=image, data={"query_domain": "sketch"}).json()["judged"]["by_domain"]
    batch = ask(site, "/v1/search:batch?null=off", json={"vectors": [query["vector"]]}).json()
    assert batch["results"][0]["judged"] is None


def test_what_is_no_such_wish_is_refused(built):
    site = Site(built[2])
    query = {"vector": sketch(built, 0)}
    for path, body in (
        ("/v1/search?null=maybe", query),
        ("/v1/search?null=on&null=off", query),
        ("/v1/search?nul=off", query),
        ("/v1/search", query | {"null": True}),
        ("/v1/search", query | {"query_domain": ""}),
    ):
        response = ask(site, path, json=body)
        assert response.status_code == 422 and len(json.loads(response.content)) == 1


def test_a_batch_is_judged_as_its_queries_alone(built):
    site = Site(built[2])
    vectors = [sketch(built, category) for category in range(8)]
    wishes = {"domains": ["photo"], "query_domain": "sketch"}
    batch = BatchAnswer.model_validate_json(
        ask(site, "/v1/search:batch", json={"vectors": vectors} | wishes).content
    )
    for one, vector in zip(batch.results, vectors, strict=True):
        alone = Answer.model_validate_json(ask(site, "/v1/search", json={"vector": vector} | wishes).content)
        assert (one.null, one.judged) == (alone.null, alone.judged)


def test_a_domain_that_was_never_seen_is_answered_and_marked(built):
    site = Site(built[2])
    for query in (
        {"vector": sketch(built, 7), "query_domain": "oil painting"},
        {"vector": (-np.array(sketch(built, 7))).tolist()},
    ):
        found = ask(site, "/v1/search", json=query).json()
        assert found["hits"] and found["null"] is None
        assert found["judged"]["query_domain"] is None and found["judged"]["by_domain"] == {}


def test_an_index_that_was_not_built_for_it_says_so(world):
    site = Site(world.index)
    assert ask(site, "/v1/index", "GET").json()["judges"] is False
    found = ask(site, "/v1/search", json={"vector": world.embeddings.vectors("photo")[0].tolist()}).json()
    assert found["judged"] is None
