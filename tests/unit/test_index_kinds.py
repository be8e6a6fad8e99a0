"""Shortcuts find what exact search finds, as far as was asked for, and their scores are the exact ones."""

from dataclasses import dataclass

import faiss
import numpy as np
import pytest

from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.index import kinds
from ucdr_ray.index.build import build
from ucdr_ray.index.kinds import APPROXIMATE, Effort
from ucdr_ray.index.plan import WORK, choose, estimates, expected_recalls, held, shown_memory
from ucdr_ray.index.recall import share
from ucdr_ray.index.search import Index
from ucdr_ray.index.source import Embedded

COUNTS = {"photo": 2600, "sketch": 1300, "painting": 60}


def clustered(id_: str) -> np.ndarray:
    """A vector near one of forty directions, as trained features are."""
    generator = np.random.default_rng(int(id_, 16))
    centre = np.random.default_rng(int(generator.integers(40))).normal(size=256)
    return centre + 0.6 * generator.normal(size=256)


@dataclass(frozen=True)
class Made:
    catalog: Catalog
    embeddings: Embeddings
    exact: Index


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    faiss.omp_set_num_threads(1)
    root = tmp_path_factory.mktemp("kinds")
    catalog = make_catalog(root / "catalog", COUNTS, rows_per_part=700, side=4)
    embeddings = make_embeddings(root / "embeddings", catalog, clustered)
    return Made(catalog, embeddings, build(embeddings, catalog, root / "exact"))


@pytest.fixture(scope="module", params=APPROXIMATE)
def index(request, made, tmp_path_factory) -> Index:
    out = tmp_path_factory.mktemp("index") / "index"
    build(made.embeddings, made.catalog, out, request.param, recall=0.95, rows_per_shard=1500)
    return Index.open(out)


def test_recall_is_reached_between_all_domains_and_stated(made, index):
    kinds = {
        entry.domain: {shard.kind for shard in index.manifest.shards_of(entry.domain)}
        for entry in index.manifest.shards
    }
    assert index.manifest.kind in kinds["photo"] and kinds["painting"] == {"exact"}
    stated = {(pair.query, pair.gallery): pair.recall for pair in index.manifest.recalls}
    assert set(stated) == {(query, gallery) for query in COUNTS for gallery in ("photo", "sketch")}
    for (query, gallery), recall in stated.items():
        assert recall >= 0.95
        others = made.embeddings.vectors(query)[::17][:60]  # not only those that it was tuned by
        truth = made.exact.search(others, [gallery])
        found = index.search(others, [gallery])
        hit = [sum(h.score >= a.hits[-1].score for h in b.hits) / 10 for a, b in zip(truth, found)]
        assert np.mean(hit) > 0.9


def test_scores_and_order_are_those_of_exact_search(made, index):
    queries = made.embeddings.vectors("sketch")[:40]
    for found in index.search(queries, k=30):
        places = [(-hit.score, hit.domain, hit.id, hit.slot) for hit in found.hits]
        assert places == sorted(places)
    answer = index.search(queries[:1], ["photo"], k=5)[0]
    own = made.embeddings.vectors("photo")[[hit.slot for hit in answer.hits]].astype(np.float64)
    assert np.array_equal([h.score for h in answer.hits], (own * queries[0]).sum(axis=1).astype(np.float32))


def test_exact_search_takes_no_shortcut(made, index):
    queries = made.embeddings.vectors("photo")[:20]
    truth, found = made.exact.search(queries, k=25), index.search(queries, k=25, exact=True)
    assert [answer.hits for answer in found] == [answer.hits for answer in truth]


def test_searching_harder_is_said_with_the_query_and_changes_nothing_for_others(made, index):
    queries, domain = made.embeddings.vectors("painting"), index.domain("photo")
    usual = domain.search(queries, 10)
    hardest = domain.search(queries, 10, effort=Effort(1000, 64))
    truth = domain.search(queries, 10, exact=True)
    there = [sum(h.score >= a[-1].score for h in b) for a, b in zip(truth, hardest)]
    assert np.mean(there) > 9.9
    assert domain.search(queries, 10) == usual


def test_a_row_more_than_there_are_is_no_answer(index):
    (answer,) = index.search(np.ones((1, 256)), ["painting"], k=100)
    assert len(answer.hits) == COUNTS["painting"]
    (answer,) = index.search(np.ones((1, 256)), ["sketch"], k=5000)
    assert {hit.slot for hit in answer.hits} == set(range(COUNTS["sketch"]))


def test_what_the_shortcut_does_not_reach_is_found_by_comparing_with_all(made, index):
    """Fewer than k lie in the cells that are searched for ten."""
    queries = made.embeddings.vectors("painting")
    for answer in index.search(queries, ["photo", "sketch"], k=1200):
        assert [len(hits) for hits in answer.by_domain.values()] == [1200, 1200]


def test_where_every_row_is_a_candidate_the_answer_is_exact(made, index):
    if index.manifest.kind == "hnsw":
        return  # its walk may miss a row
    queries, domain = made.embeddings.vectors("painting")[:20], index.domain("photo")
    assert domain.search(queries, 30, effort=Effort(1000, 64)) == domain.search(queries, 30, exact=True)


def test_recall_leaves_out_copies_of_the_query_and_takes_the_worse_half():
    truth = np.tile(np.linspace(0.9, 0.8, 11, dtype=np.float32), (4, 1))
    truth[0, 0] = 1  # the query itself
    truth[1, :2] = 1  # and a copy: nine are left
    assert share(truth, truth) == 1
    found = truth.copy()
    found[0, 1:] = -np.inf  # only itself: nothing
    assert share(truth, found) == pytest.approx(10 / 20)  # of queries 0 and 2
    found = truth.copy()
    found[3, :5] = -np.inf
    assert share(truth, -np.sort(-found, axis=1)) == pytest.approx(14 / 19)  # of 1 and 3
    assert share(np.ones((2, 11), np.float32), np.ones((2, 11), np.float32)) == 1  # nothing but copies


def test_a_recall_out_of_reach_is_not_published(made, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("ucdr_ray.index.kinds", fromlist=["FETCHES"]).FETCHES, "ivf-pq", (1,))
    with pytest.raises(
        JobError, match=r"ivf-pq finds \d+\.\d% of the exact top 10 in .*less than the 100.0% asked"
    ):
        build(made.embeddings, made.catalog, tmp_path / "index", "ivf-pq", recall=1.0)
    with pytest.raises(UserError, match="no index"):
        Index.open(tmp_path / "index")


def test_the_plan_takes_the_smallest_that_reaches_the_recall_and_refuses_what_cannot_fit(made):
    source = Embedded(made.embeddings.path, made.catalog.path)
    rows = {name: np.arange(count) for name, count in COUNTS.items()}
    recalls = expected_recalls(source, rows, 256)
    assert recalls["exact"] == 1 and recalls["ivf-sq8"] >= 0.99 and recalls["ivf-pq"] > 0.8
    found = {estimate.kind: estimate for estimate in estimates([10**6], 256, 96 * 10**6, recalls)}
    assert found["ivf-pq"].memory < found["ivf-sq8"].memory < found["hnsw"].memory < found["ivf-flat"].memory
    assert found["binary"].memory < found["ivf-pq"].memory
    assert found["exact"].memory == 10**6 * (4 * 256 + 96) + WORK
    every = list(found.values())
    assert choose(every, None, 0.8, 10**6).kind == "ivf-pq"
    assert choose(every, None, 0.8, 10_000).kind == "exact"
    assert choose(every, found["ivf-sq8"].memory, 0.99, 10**6).kind in ("ivf-pq", "ivf-sq8")
    with pytest.raises(UserError, match=r"--memory 1 MB with --recall 0.97: nothing fits \(exact 1,123 MB"):
        choose(every, 10**6, 0.97, 10**6)


def test_the_estimate_is_what_the_files_take(made, index):
    shards = [entry.rows for entry in index.manifest.shards]
    around = shown_memory(Embedded(made.embeddings.path, made.catalog.path))
    every = estimates(shards, 256, around, dict.fromkeys((*APPROXIMATE, "exact"), 1.0))
    (stated,) = [estimate for estimate in every if estimate.kind == index.manifest.kind]
    real = sum(
        entry.vectors.bytes + (entry.approximate.bytes if entry.approximate else 0)
        for entry in index.manifest.shards
    )
    assert stated.disk - around == pytest.approx(real, rel=0.05)
    assert held(index.manifest.shards) == pytest.approx(stated.memory, rel=0.05)


@pytest.mark.parametrize("place", [0, 40, 200, -1])
def test_a_damaged_shortcut_is_refused(index, place, tmp_path):
    path = next(index.folder / e.approximate.file for e in index.manifest.shards if e.approximate)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 4
    try:
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="search.faiss does not match its checksum"):
            Index.open(index.folder.parents[1])
    finally:
        path.write_bytes(whole)


def test_folders_of_an_index(index):
    names = {path.relative_to(index.folder).as_posix() for path in index.folder.rglob("*") if path.is_file()}
    assert {
        "manifest.json",
        "shards/photo-00001/search.faiss",
        "shards/painting-00000/vectors.faiss",
    } <= names
    assert not list(index.folder.rglob(".*"))


def test_hash_codes_lose_nothing_as_signs(tmp_path):
    """Their cosine is 1 - 2 h / d, where h of d bits differ."""
    catalog = make_catalog(tmp_path / "catalog", {"photo": 1500, "sketch": 20}, side=4)

    def code(id_: str) -> np.ndarray:
        return np.sign(np.random.default_rng(int(id_, 16)).normal(size=256))

    embeddings = make_embeddings(tmp_path / "embeddings", catalog, code)
    index = build(embeddings, catalog, tmp_path / "index", "binary", recall=1.0)
    queries = embeddings.vectors("sketch")
    for found, truth in zip(index.search(queries, ["photo"]), index.search(queries, ["photo"], exact=True)):
        assert [hit.score for hit in found.hits] == [hit.score for hit in truth.hits]
    assert {pair.recall for pair in index.manifest.recalls} == {1.0}
    (shard,) = index.manifest.shards_of("photo")
    assert (shard.approximate.fetch, shard.approximate.bytes) == (1, pytest.approx(1500 * 256 / 8, abs=100))


def test_signs_need_not_fill_bytes():
    rows = np.sign(np.random.default_rng(0).normal(size=(200, 12))).astype(np.float32)
    index = kinds.untaught("binary", 12)
    kinds.add(index, rows)
    found = kinds.candidates("binary", index, rows[:20], 5, effort=1)
    best = -np.sort(-(rows[:20] @ rows.T), axis=1)[:, :5]
    assert np.array_equal(np.take_along_axis(rows[:20] @ rows.T, found, axis=1), best)
