"""An index version is complete and undamaged, or it isn't opened; a new one becomes current only when it is right."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from tests.tiny import encoder, make_catalog, make_embeddings
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.images import decode
from ucdr_ray.index.build import build
from ucdr_ray.index.manifest import Manifest
from ucdr_ray.index.search import Index
from ucdr_ray.index.source import Embedded
from ucdr_ray.index.versions import current, versions
from ucdr_ray.models.encoder import Encoder


def naive(embeddings: Embeddings, domains: list[str], query: np.ndarray, k: int) -> list[tuple]:
    rows = []
    for domain in domains:
        vectors = embeddings.vectors(domain).astype(np.float64)
        scores = (vectors * query.astype(np.float64)).sum(axis=1).astype(np.float32)
        rows += [
            (-float(s), domain, i, slot)
            for slot, (s, i) in enumerate(zip(scores, embeddings.ids(domain).to_pylist()))
        ]
    return sorted(rows)[:k]


def test_search_over_domains_and_shards_equals_naive_search(world):
    index = Index.open(world.index)
    assert len(index.manifest.shards) == 1 + 5 + 3
    queries = world.embeddings.vectors("photo")
    for domains in (["sketch"], ["photo", "Real World"], [d.name for d in world.catalog.domains]):
        for query, answer in zip(queries, index.search(queries, domains, k=12), strict=True):
            found = [(-hit.score, hit.domain, hit.id, hit.slot) for hit in answer.hits]
            assert found == naive(world.embeddings, domains, query, 12)
            for name in domains:
                hits = [(-hit.score, name, hit.id, hit.slot) for hit in answer.by_domain[name]]
                assert hits == naive(world.embeddings, [name], query, 12)


def test_an_answer_says_what_it_rests_on(world):
    index = Index.open(world.index)
    (answer,) = index.search(world.embeddings.vectors("photo")[:1], ["photo", "sketch"], k=3)
    assert answer.index_version == current(world.index)
    assert answer.model == world.embeddings.model
    assert (answer.shards_answered, answer.shards_total) == (8, 8)
    assert answer.notes == []
    assert [hit.source for hit in answer.hits] == [f"{hit.domain}/{hit.slot}.png" for hit in answer.hits]


def test_k_above_the_domain_returns_all_and_says_so(world):
    index = Index.open(world.index)
    (answer,) = index.search(world.embeddings.vectors("photo")[:1], ["Real World", "sketch"], k=1000)
    assert len(answer.hits) == 24
    assert answer.notes == [
        "Real World has only 1 images",
        "sketch has only 23 images",
    ]


def test_wrong_questions_are_refused(world):
    index = Index.open(world.index)
    query = world.embeddings.vectors("photo")[:1]
    with pytest.raises(UserError, match=r"no domain 'painting'.*has: Real World, photo, sketch"):
        index.search(query, ["painting"])
    with pytest.raises(UserError, match="k = 0: at least 1"):
        index.search(query, k=0)
    with pytest.raises(UserError, match=r"\(number of queries, 256\) is allowed"):
        index.search(query[:, :-1])


def test_thumbnails_are_small_images_of_their_row(world, tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 300}, rows_per_part=290, side=200)
    embeddings = make_embeddings(tmp_path / "embeddings", catalog)
    index = build(embeddings, catalog, tmp_path / "index")
    images = catalog.read("photo", ["image"])["image"]
    for slot in (0, 255, 256, 289, 290, 299):
        thumbnail = decode(index.domain("photo").thumbnail(slot))
        assert thumbnail.size == (128, 128)
        original = decode(images[slot].as_py()).resize((128, 128))
        assert np.abs(np.asarray(thumbnail, float) - np.asarray(original, float)).mean() < 4
    small = Index.open(world.index).domain("sketch").thumbnail(22)
    assert small == world.catalog.read("sketch", ["image"])["image"][22].as_py()


def test_the_index_carries_the_encoder_of_its_vectors(world):
    assert Index.open(world.index).encoder.fingerprint == encoder().fingerprint


def test_a_second_build_becomes_current_and_keeps_the_first(world, copy):
    first = current(copy)
    before = Index.open(copy)
    second = build(world.embeddings, world.catalog, copy).version
    assert (first.split("-")[0], second.split("-")[0]) == ("1", "2")
    assert versions(copy) == [first, second]
    assert current(copy) == second == Index.open(copy).version
    assert Index.open(copy, first).version == first
    query = world.embeddings.vectors("sketch")
    assert [a.hits for a in before.search(query)] == [a.hits for a in Index.open(copy).search(query)]


def test_only_one_build_at_a_time(world, copy):
    with FileLock(copy / ".lock"), pytest.raises(UserError, match="another process is building"):
        build(world.embeddings, world.catalog, copy)


def test_what_does_not_belong_together_is_refused(world, tmp_path):
    other = make_catalog(tmp_path / "catalog", {"photo": 3})
    with pytest.raises(UserError, match="not the one that was embedded"):
        build(world.embeddings, other, tmp_path / "index")
    folder = Path(shutil.copytree(world.embeddings.path, tmp_path / "embeddings"))
    Encoder.from_backbone("random:resnet-mini", size=48).save(folder / "encoder")
    with pytest.raises(UserError, match="foreign encoder"):
        build(Embeddings.open(folder, verify=False), world.catalog, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_version_that_does_not_find_itself_is_not_published(world, copy, monkeypatch):
    """The fault is in the writing of shards: rows in the wrong order, under right checksums."""
    read = Embedded.batches

    def reversed_batches(source, domain, slots):
        for rows in read(source, domain, slots):
            yield rows._replace(vectors=np.ascontiguousarray(rows.vectors[::-1]))

    monkeypatch.setattr(Embedded, "batches", reversed_batches)
    before = current(copy)
    with pytest.raises(JobError, match="does not find slot"):
        build(world.embeddings, world.catalog, copy)
    assert current(copy) == before and versions(copy) == [before]
    Index.open(copy)
    assert not list((copy / "versions").glob(".*"))


def test_no_index_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no index at .*CURRENT is missing"):
        Index.open(tmp_path)


def test_labels_are_not_in_the_index(world):
    for path in (world.index / "versions").rglob("*.parquet"):
        assert pq.read_schema(path).names == ["id", "domain", "slot", "source", "thumbnail"]


def test_manifest_is_described_by_its_schema():
    assert set(Manifest.model_json_schema()["required"]) >= {
        "created",
        "model",
        "dim",
        "shards",
        "recalls",
        "encoder",
    }
