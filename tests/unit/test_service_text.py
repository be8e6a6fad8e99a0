"""Asking in words: over HTTP and at the command line, of an index whose encoder is from a CLIP, and of others."""

import json

import pytest

from serve.messages import Answer
from tests.serving import Site, ask
from tests.tiny import clip, make_catalog, make_embeddings, picture, random_vector
from ucdr_ray import cli
from ucdr_ray.index.build import build
from ucdr_ray.index.search import Index


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip")
    catalog = make_catalog(root / "catalog", {"photo": 30, "sketch": 20})
    embeddings = make_embeddings(
        root / "embeddings", catalog, lambda id_: random_vector(id_, clip().dim), made_by=clip()
    )
    build(embeddings, catalog, root / "index", rows_per_shard=9, null=1.0)
    return root / "index"


def expected(index, text: str, k: int = 10) -> list[tuple[str, str]]:
    (answer,) = Index.open(index).search(clip().encode_text([text]).numpy(), ["photo", "sketch"], k, False)
    return [(hit.domain, hit.id) for hit in answer.hits]


@pytest.mark.parametrize("parts", [0, 2])
def test_words_find_what_their_vector_finds(index, parts):
    site = Site(index, parts)
    assert ask(site, "/v1/index", "GET").json()["reads_text"] is True
    for text in ("a cat", "a tree of a house", "katze 猫"):
        found = Answer.model_validate_json(ask(site, "/v1/search", json={"text": text}).content)
        assert [(hit.domain, hit.id) for hit in found.hits] == expected(index, text)
        assert found.judged is None and found.timings_ms.encode > 0


def test_what_is_no_question_in_words_is_refused(index, world):
    site = Site(index)
    for body, message in (
        ({"text": ""}, "text: String should have at least 1 character"),
        ({"text": "   "}, "text: '   ' is no word to CLIP small"),
        ({"text": "tree " * 60}, "tokens; allowed: up to 22"),
        ({"text": "x" * 1001}, "at most 1000 characters"),
        ({"text": 3}, "valid string"),
        ({"text": "cat", "id": "1"}, "exactly one of vector, id and text is needed"),
        ({"text": "cat", "query_domain": "photo"}, "query_domain: does not go with text"),
    ):
        answer = ask(site, "/v1/search", json=body)
        assert answer.status_code == 422 and message in answer.json()["error"], answer.text
    other = Site(world.index)
    assert ask(other, "/v1/index", "GET").json()["reads_text"] is False
    answer = ask(other, "/v1/search", json={"text": "cat"})
    assert (answer.status_code, answer.json()["error"]) == (
        422,
        "text: the encoder of this index reads images only",
    )


def test_a_bad_text_spoils_no_other_in_its_batch(index):
    from serve.encoding import Encoders

    found = Encoders().encode(Index.open(index), ["cat", " ", "tree"])
    assert isinstance(found[1], str) and "no word" in found[1]
    for place, text in ((0, "cat"), (2, "tree")):
        assert found[place] == pytest.approx(clip().encode_text([text]).numpy()[0], abs=1e-5)


def test_images_and_words_at_the_command_line(index, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(picture(3))
    words = ["search", str(index), "cat.png", "--text", "a cat", "--text", "a [red] tree", "-k", "3"]
    assert cli.run([*words, "--json", "-"]) == 0
    queries = json.loads(capsys.readouterr().out)["queries"]
    assert [query.get("image") or query["text"] for query in queries] == ["cat.png", "a cat", "a [red] tree"]
    assert [(hit["domain"], hit["id"]) for hit in queries[1]["hits"]] == expected(index, "a cat", 3)
    assert queries[0]["judged"] is not None and queries[1]["judged"] is None
    assert cli.run(words) == 0
    assert "“a [red] tree”" in capsys.readouterr().out
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
