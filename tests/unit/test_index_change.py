"""Adding, deleting, compacting, tuning, rolling back: each a version, which answers as one built anew would."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.tiny import make_catalog, make_embeddings
from ucdr_ray import cli
from ucdr_ray.errors import UserError
from ucdr_ray.index import kinds
from ucdr_ray.index.build import build
from ucdr_ray.index.change import add, compact, delete, rollback, tune
from ucdr_ray.index.search import Index
from ucdr_ray.index.versions import current, versions
from ucdr_ray.models.encoder import Encoder


def hits(index: Index, queries: np.ndarray, k: int = 15) -> list[list[tuple]]:
    """What is found, without slots, which compaction changes."""
    return [
        [(hit.score, hit.domain, hit.id, hit.source) for hit in answer.hits]
        for answer in index.search(queries, k=k, exact=True)
    ]


@pytest.fixture
def grown(world, tmp_path):
    """Embeddings of the same images, nine more photos, and a new domain."""
    catalog = make_catalog(tmp_path / "catalog", {"Real World": 1, "photo": 49, "sketch": 23, "zoo": 5})
    return catalog, make_embeddings(tmp_path / "embeddings", catalog)


def test_added_images_are_found_as_if_they_had_been_built_in(world, copy, grown, tmp_path):
    catalog, embeddings = grown
    # Domains are numbered by name in the tiny catalog: old ones keep their images.
    index = add(copy, embeddings, catalog)
    assert index.version == current(copy) and len(versions(copy)) == 2
    assert index.manifest.rows_of("photo") == 49 and index.manifest.rows_of("zoo") == 5
    queries = embeddings.vectors("photo")
    assert hits(Index.open(copy), queries) == hits(build(embeddings, catalog, tmp_path / "anew"), queries)
    assert add(copy, embeddings, catalog).version == index.version, "nothing new, no new version"


def test_what_stays_is_shared_with_the_version_before(world, copy, grown):
    before = Index.open(copy)
    after = add(copy, grown[1], grown[0])
    for record in before.manifest.files:
        assert os.path.samefile(before.folder / record.file, after.folder / record.file)


def test_deleted_images_are_found_no_more_and_come_back_by_adding(world, copy):
    before = Index.open(copy)
    queries = world.embeddings.vectors("sketch")
    gone = {hit.id for answer in before.search(queries, ["photo"], k=2) for hit in answer.hits}
    index = delete(copy, sorted(gone))
    assert index.manifest.totals.rows == 64 - sum(
        id_ in gone
        for domain in world.embeddings.domains
        for id_ in world.embeddings.ids(domain.name).to_pylist()
    )
    for wide, narrow in zip(hits(before, queries, 64), hits(Index.open(copy), queries, 64)):
        assert narrow == [hit for hit in wide if hit[2] not in gone]
    again = delete(copy, [world.embeddings.ids("Real World").to_pylist()[0]], ["Real World"])
    assert again.manifest.rows_of("Real World") == 0
    assert again.search(queries[:1], ["Real World"])[0].hits == []
    back = add(copy, world.embeddings, world.catalog)
    assert hits(back, queries, 64) == hits(before, queries, 64)


def test_wrong_deletions_change_nothing(world, copy):
    used = current(copy)
    known = world.embeddings.ids("photo").to_pylist()
    with pytest.raises(UserError, match="1 of 2 ids are not in the index .* such as 00ff: none was deleted"):
        delete(copy, [known[0], "00ff"])
    with pytest.raises(UserError, match="ids are not in the index"):
        delete(copy, known[:1], ["sketch"])
    with pytest.raises(UserError, match="it has: Real World, photo, sketch"):
        delete(copy, known[:1], ["art"])
    everything = [i for d in world.embeddings.domains for i in world.embeddings.ids(d.name).to_pylist()]
    with pytest.raises(UserError, match="nothing would be left"):
        delete(copy, everything)
    assert current(copy) == used and not list((copy / "versions").glob(".*"))


def test_where_there_is_no_index_nothing_is_left(tmp_path, world):
    for change in (
        lambda: delete(tmp_path / "no", ["é"]),
        lambda: compact(tmp_path / "no"),
        lambda: tune(tmp_path / "no", 0.9),
        lambda: rollback(tmp_path / "no"),
        lambda: add(tmp_path / "no", world.embeddings, world.catalog),
    ):
        with pytest.raises(UserError, match="no index at"):
            change()
    assert not list(tmp_path.iterdir())


def test_an_id_of_any_letters_is_just_unknown(copy):
    with pytest.raises(UserError, match="such as é: none was deleted"):
        delete(copy, ["é"])


def test_compaction_leaves_answers_and_nothing_else(world, copy, grown):
    catalog, embeddings = grown
    add(copy, embeddings, catalog)
    index = delete(copy, embeddings.ids("photo").to_pylist()[3:20])
    queries = embeddings.vectors("zoo")
    smaller = compact(copy)
    assert hits(smaller, queries, 78) == hits(index, queries, 78)
    assert smaller.manifest.rows_of("photo") == sum(e.rows for e in smaller.manifest.shards_of("photo"))
    assert len(smaller.manifest.shards) == 4
    for domain in smaller.manifest.domains:
        opened = smaller.domain(domain)
        slots = opened.live()[0]
        assert opened.thumbnail(int(slots[-1])) and opened.sources(slots[-1:])[0].startswith(domain)


def test_rolling_back_and_forth(world, copy):
    first = current(copy)
    with pytest.raises(UserError, match="no version in use before"):
        rollback(copy)
    second = delete(copy, world.embeddings.ids("photo").to_pylist()[:1]).version
    assert rollback(copy).version == first == current(copy)
    assert rollback(copy, second).version == second == current(copy)
    with pytest.raises(UserError, match=f"no version '9-x'.* it has: {first}, {second}"):
        rollback(copy, "9-x")
    shard = copy / "versions" / first / "shards" / "photo-00000" / "metadata.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="does not match its checksum"):
        rollback(copy)
    assert current(copy) == second


def test_rolling_back_returns_to_what_was_in_use_not_to_what_was_left(world, copy, grown):
    first = current(copy)
    rejected = delete(copy, world.embeddings.ids("photo").to_pylist()[:1]).version
    rollback(copy)
    shutil.copytree(copy / "versions" / rejected, copy / "versions" / rejected.replace("2-", "9-"))
    third = add(copy, grown[1], grown[0]).version
    assert rollback(copy).version == first, "the version that the third was made from"
    rollback(copy, third)
    shutil.rmtree(copy / "versions" / first)
    with pytest.raises(UserError, match=f"no version '{first}'"):
        rollback(copy)


@pytest.mark.parametrize("damage", [b"", b"1-0123456789ab\n", b"\xff", None])
def test_a_version_named_is_put_in_use_where_current_is_damaged(damage, copy):
    first = current(copy)
    (copy / "CURRENT").unlink()
    if damage is not None:
        (copy / "CURRENT").write_bytes(damage)
    with pytest.raises(UserError, match="index"):
        rollback(copy)
    assert rollback(copy, first).version == first == current(copy)


@pytest.mark.parametrize("end", [chr(0), chr(0xD800), chr(0xDCFF)])
def test_an_id_with_letters_that_are_none_deletes_and_finds_nothing(end, world, copy):
    first, (id_, *_) = current(copy), world.embeddings.ids("photo").to_pylist()
    with pytest.raises(UserError, match="none was deleted"):
        delete(copy, [id_ + end])
    assert current(copy) == first and Index.open(copy).find(id_) is not None
    assert Index.open(copy).find(id_ + end) is None


def test_folders_of_others_beside_the_versions_stay(world, copy):
    (copy / "versions" / ".backup").mkdir()
    delete(copy, world.embeddings.ids("photo").to_pylist()[:1])
    assert (copy / "versions" / ".backup").is_dir()


def test_recall_is_measured_anew_where_most_is_deleted(tmp_path):
    """Cells that held a thousand rows hold a few: as many have to be searched again."""
    catalog = make_catalog(tmp_path / "catalog", {"photo": 2600, "sketch": 40}, side=4)

    def clustered(id_: str) -> np.ndarray:
        generator = np.random.default_rng(int(id_, 16))
        return np.random.default_rng(int(generator.integers(40))).normal(size=256) + generator.normal(
            size=256
        )

    embeddings = make_embeddings(tmp_path / "embeddings", catalog, clustered)
    base = build(embeddings, catalog, tmp_path / "index", "ivf-flat", recall=0.95)
    left = delete(tmp_path / "index", embeddings.ids("photo").to_pylist()[60:])
    (few,), (many,) = (index.manifest.shards_of("photo") for index in (left, base))
    assert few.approximate.effort > many.approximate.effort
    assert min(pair.recall for pair in left.manifest.recalls) >= 0.95
    queries = embeddings.vectors("sketch")
    for found, truth in zip(left.search(queries, ["photo"]), left.search(queries, ["photo"], exact=True)):
        assert len(found.hits) == len(truth.hits) == 10
    back = add(tmp_path / "index", embeddings, catalog)
    assert [entry.kind for entry in back.manifest.shards_of("photo")] == ["ivf-flat", "ivf-flat"]


def test_a_shard_that_is_smaller_than_its_cells_gets_no_shortcut(world, tmp_path, grown, monkeypatch):
    monkeypatch.setattr("ucdr_ray.index.build.SMALLEST", 4)
    monkeypatch.setattr(kinds, "_FEWEST_PER_CELL", 1)
    build(world.embeddings, world.catalog, tmp_path / "index", "ivf-flat", recall=0.5)
    added = add(tmp_path / "index", grown[1], grown[0])
    assert [entry.kind for entry in added.manifest.shards_of("photo")] == ["ivf-flat", "exact"]


def test_what_a_killed_writer_left_is_cleared_away(world, copy):
    """Killed while it wrote files, while it published, and just before its version was put in use."""
    first = current(copy)
    for folder in (".build-x", ".2-0123456789ab.x.tmp"):
        (copy / "versions" / folder / "shards").mkdir(parents=True)
    (copy / ".CURRENT.x.tmp").write_text("2-0123456789ab\n")
    index = delete(copy, world.embeddings.ids("photo").to_pylist()[:1])
    assert {path.name for path in copy.iterdir()} - {".lock"} == {"CURRENT", "versions"}
    assert {path.name for path in (copy / "versions").iterdir()} == {first, index.version}


def test_vectors_of_another_model_are_not_added(world, copy, tmp_path, monkeypatch):
    import tests.tiny

    other = Encoder.from_backbone("random:resnet-mini", size=32, seed=5)
    monkeypatch.setattr(tests.tiny, "encoder", lambda: other)
    embeddings = make_embeddings(tmp_path / "embeddings", world.catalog)
    with pytest.raises(UserError, match="allowed are vectors of the same model"):
        add(copy, embeddings, world.catalog)


@pytest.mark.parametrize("kind", ["ivf-pq", "hnsw", "binary"])
def test_changes_of_an_index_with_shortcuts(kind, world, tmp_path, monkeypatch, grown):
    monkeypatch.setattr(kinds, "SMALLEST", 20)
    monkeypatch.setattr("ucdr_ray.index.build.SMALLEST", 20)
    out = tmp_path / "index"
    base = build(world.embeddings, world.catalog, out, kind, recall=0.9)
    assert {e.domain: e.kind for e in base.manifest.shards} == {
        "Real World": "exact",
        "photo": kind,
        "sketch": kind,
    }
    queries = grown[1].vectors("zoo")
    gone = [hit.id for answer in base.search(queries, ["photo"], k=3) for hit in answer.hits]
    delete(out, sorted(set(gone)))
    for answer in Index.open(out).search(queries, ["photo"], k=30):
        assert answer.hits and not {hit.id for hit in answer.hits} & set(gone)
    added = add(out, grown[1], grown[0])
    assert {gallery.gallery for gallery in added.manifest.recalls} == {"photo", "sketch"}
    assert {gallery.query for gallery in added.manifest.recalls} == {"Real World", "photo", "sketch", "zoo"}
    tuned = tune(out, 0.95)
    assert tuned.manifest.recall == 0.95 and min(pair.recall for pair in tuned.manifest.recalls) >= 0.95
    small = compact(out)
    assert small.manifest.recall == 0.95 and small.manifest.totals.rows == tuned.manifest.totals.rows


def test_nothing_to_tune(copy):
    with pytest.raises(UserError, match="nothing to tune"):
        tune(copy, 0.9)


def test_commands(world, copy, grown, tmp_path, capsys):
    def call(*words: object) -> dict:
        assert cli.run(["index", *map(str, words), "--json", "-"]) == 0
        return json.loads(capsys.readouterr().out)

    first = current(copy)
    assert call("add", copy, grown[1].path)["domains"]["zoo"] == 5
    ids = grown[1].ids("zoo").to_pylist()
    (tmp_path / "ids.txt").write_text("\n".join(ids[:2]))
    deleted = call("delete", copy, ids[2], "--ids", tmp_path / "ids.txt", "--domains", "zoo")
    assert deleted["domains"]["zoo"] == len(ids) - 3 and deleted["deleted"] == 3
    assert call("compact", copy)["deleted"] == 0
    assert call("rollback", copy, "--to", first)["version"] == first
    assert cli.run(["index", "delete", str(copy)]) == 2
    assert capsys.readouterr().err == "error: no ids: name them, or give a file of them with --ids FILE\n"
    assert cli.run(["index", "tune", str(copy), "--recall", "2"]) == 2
    assert capsys.readouterr().err == "error: --recall 2: allowed are shares above 0, up to 1\n"


def test_build_says_what_it_will_take_and_refuses_what_cannot_fit(world, tmp_path, capsys):
    call = ["index", "build", str(world.embeddings.path), "--out", str(tmp_path / "index")]
    assert cli.run([*call, "--memory", "1kB"]) == 2
    assert "nothing fits (exact 3 MB" in capsys.readouterr().err
    assert cli.run([*call, "--kind", "hnsw", "--memory", "1kB"]) == 2
    assert "an index of kind hnsw takes 3 MB" in capsys.readouterr().err
    assert cli.run([*call, "--memory", "lots"]) == 2
    assert capsys.readouterr().err == "error: --memory lots: allowed is a size such as 500MB or 2GB\n"
    assert not (tmp_path / "index").exists()
    assert cli.run([*call, "--memory", "1GB"]) == 0
    said = capsys.readouterr()
    assert "exact: 3.1 MB of memory, 0.1 MB of disk" in said.err and "is in use: 64 images" in said.out
