"""`ucdr search` and `ucdr index` as a user types them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import encoder, picture
from ucdr_ray import cli
from ucdr_ray.images import decode, to_array
from ucdr_ray.index.search import Index
from ucdr_ray.index.versions import current


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Sheets go to the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def query(tmp_path) -> Path:
    path = tmp_path / "a [red] cat.png"
    path.write_bytes(picture(7, side=50))
    return path


def json_of(capsys, *words: object) -> dict:
    assert cli.run([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    assert cli.run([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_json_holds_the_search_of_the_query_by_the_indexs_own_encoder(world, query, capsys):
    found = json_of(capsys, "search", world.index, query, "--domains", "sketch,photo", "-k", 5, "--json", "-")
    pixels = torch.from_numpy(to_array(query.read_bytes(), 32)[None])
    (answer,) = Index.open(world.index).search(encoder().encode(pixels).numpy(), ["sketch", "photo"], 5)
    (made,) = found["queries"]
    keys = ("score", "domain", "id", "slot", "source")
    assert [tuple(hit[key] for key in keys) for hit in made["hits"]] == [
        tuple(getattr(hit, key) for key in keys) for hit in answer.hits
    ]
    assert [hit["rank"] for hit in made["hits"]] == [1, 2, 3, 4, 5]
    assert {name: len(hits) for name, hits in made["by_domain"].items()} == {"sketch": 5, "photo": 5}
    assert found["index"]["version"] == current(world.index)
    assert found["model"]["fingerprint"] == encoder().fingerprint
    assert found["shards"] == {"answered": 8, "total": 8}


def test_the_table_shows_every_hit_and_what_it_rests_on(world, query, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "120")
    words = ["search", world.index, query, "--domains", "Real World,sketch", "-k", 30]
    assert cli.run([*map(str, words), "--json", str(tmp_path / "found.json")]) == 0
    text = capsys.readouterr().out
    assert "a [red] cat.png" in text
    for slot in range(23):
        assert f"sketch/{slot}.png" in text
    assert "sketch has only 23 images" in text
    assert f"index version {current(world.index)}" in text and "4 of 4 shards answered" in text
    assert len(json.loads((tmp_path / "found.json").read_text())["queries"][0]["hits"]) == 24


def test_the_sheet_is_a_picture_with_a_row_for_each_query_and_domain(world, query, capsys, tmp_path):
    heights = []
    for queries, domains in (([query], "photo"), ([query], "photo,sketch"), ([query, query], "photo,sketch")):
        sheet = tmp_path / "sheet.png"
        assert cli.run(["search", str(world.index), *map(str, queries), "--domains", domains,
                        "-k", "3", "--sheet", str(sheet)]) == 0  # fmt: skip
        picture = decode(sheet.read_bytes())
        heights.append(picture.height)
        assert np.asarray(picture).std() > 10
    assert heights[1] == 2 * heights[0] and heights[2] == 4 * heights[0]
    capsys.readouterr()


def test_a_sheet_is_written_unless_a_program_reads(world, query, capsys):
    json_of(capsys, "search", world.index, query, "--json", "-")
    assert not Path("search.png").exists()
    assert cli.run(["search", str(world.index), str(query)]) == 0
    assert "sheet: search.png" in capsys.readouterr().out and decode(Path("search.png").read_bytes())


def test_wrong_calls_are_one_line(world, query, capsys, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(query.read_bytes()[:80])
    index = world.index
    assert "no domain 'painting'" in refused(capsys, "search", index, query, "--domains", "painting")
    assert "it has: Real World, photo, sketch" in refused(capsys, "search", index, query, "--domains", "x")
    assert "-k 0: allowed are 1 to" in refused(capsys, "search", index, query, "-k", 0)
    assert "cannot read the query" in refused(capsys, "search", index, tmp_path / "none.png")
    assert "cannot read the query" in refused(capsys, "search", index, tmp_path)
    assert "text.png: not an image" in refused(capsys, "search", index, query, tmp_path / "text.png")
    assert "cut.png: " in refused(capsys, "search", index, tmp_path / "cut.png")
    assert "no index at" in refused(capsys, "search", tmp_path / "nowhere", query)


def test_build_list_and_verify(world, capsys, tmp_path):
    index = tmp_path / "index"
    build = ("index", "build", world.embeddings.path, "--out", index, "--json", "-")
    first = json_of(capsys, *build)
    assert first["domains"] == {"Real World": 1, "photo": 40, "sketch": 23} and first["rows"] == 64
    second = json_of(capsys, *build)
    listed = json_of(capsys, "index", "list", index, "--json", "-")
    assert listed["current"] == second["version"] == current(index)
    assert [version["version"] for version in listed["versions"]] == [first["version"], second["version"]]
    assert cli.run(["index", "list", str(index)]) == 0
    marked = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["*"]]
    assert marked == [second["version"]]
    assert json_of(capsys, "index", "verify", index, "--json", "-")["verified"] == [
        first["version"],
        second["version"],
    ]
    damaged = index / "versions" / first["version"] / "shards" / "photo-00000" / "vectors.faiss"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert str(damaged) in refused(capsys, "index", "verify", index)


def test_a_catalog_that_has_moved_must_be_named(world, capsys, tmp_path):
    moved = Path(shutil.copytree(world.catalog.path, tmp_path / "moved"))
    embeddings = Path(shutil.copytree(world.embeddings.path, tmp_path / "embeddings"))
    away = world.catalog.path.rename(tmp_path / "away")
    try:
        message = refused(capsys, "index", "build", embeddings, "--out", tmp_path / "index")
        assert "say where it is: --catalog CATALOG" in message
        call = ("index", "build", embeddings, "--out", tmp_path / "index", "--catalog", moved, "--json", "-")
        assert json_of(capsys, *call)["rows"] == 64
    finally:
        away.rename(world.catalog.path)


def test_embed_says_which_sources_it_takes(world, capsys, tmp_path):
    call = ("embed", "--catalog", world.catalog.path, "--out", tmp_path / "out")
    assert "exactly one of --run RUN and --backbone FOLDER" in refused(capsys, *call)
    both = ("--run", tmp_path, "--backbone", "random:resnet-mini")
    assert "exactly one of --run RUN and --backbone FOLDER" in refused(capsys, *call, *both)
    assert "--size goes with --backbone" in refused(capsys, *call, "--run", tmp_path, "--size", 64)
    assert "no encoder at" in refused(capsys, *call, "--run", tmp_path)
    unknown = refused(capsys, *call, "--backbone", "random:resnet-mini", "--domains", "art")
    assert "it has: Real World, photo, sketch" in unknown
    assert not (tmp_path / "out").exists()


def test_words_need_an_encoder_that_reads_them_and_some_question_there_must_be(world, query, capsys):
    assert "reads images only" in refused(capsys, "search", world.index, "--text", "a cat")
    assert "reads images only" in refused(capsys, "search", world.index, query, "--text", "a cat")
    assert "give images, or --text WORDS" in refused(capsys, "search", world.index)
