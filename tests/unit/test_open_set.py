"""Whether what a query shows is in another domain at all (UEM, App. B.1): by loops of its own, and through an index."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.categories import SHARED, built_index, made
from tests.tiny import make_catalog, make_embeddings
from ucdr_ray import cli
from ucdr_ray.errors import UserError
from ucdr_ray.index.build import build
from ucdr_ray.index.change import add, compact, delete
from ucdr_ray.index.judging import judge
from ucdr_ray.index.open_set import LEVELS, OpenSet
from ucdr_ray.index.search import Index


def nearest_cosines(rows: dict[str, np.ndarray], query: str, gallery: str) -> np.ndarray:
    return (rows[query].astype(np.float64) @ rows[gallery].T).max(1)


@pytest.mark.parametrize("seed", range(5))
def test_what_the_other_domain_lacks_is_said_and_the_rest_is_not(seed):
    rows, labels = made(seed)
    known = OpenSet.fit(rows)
    for query, gallery in (("sketch", "photo"), ("photo", "sketch")):
        verdicts = known.judge(rows[query], query, gallery, nearest_cosines(rows, query, gallery))
        private = ~np.isin(labels[query], labels[gallery])
        assert [verdict.null for verdict in verdicts] == private.tolist()


def test_thresholds_are_quantiles_of_all_distances_between_the_merged_clusters():
    rows, labels = made()
    known = OpenSet.fit(rows)
    for category in range(SHARED):
        mine, theirs = (
            rows[name][labels[name] == category].astype(np.float64) for name in ("sketch", "photo")
        )
        far = [
            (1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)) * np.linalg.norm(u - v)
            for u in mine
            for v in theirs
        ]
        for quantile in (1.0, 0.5, 0.07):
            verdicts = known.judge(mine.astype(np.float32), "sketch", "photo", np.ones(len(mine)), quantile)
            for verdict in verdicts:
                assert verdict.threshold == pytest.approx(np.quantile(far, quantile), rel=1e-2)
    assert known.distances["sketch", "photo"].shape[1] == len(LEVELS)


def test_too_far_from_anything_is_null_by_its_distance():
    rows, labels = made()
    known = OpenSet.fit(rows)
    queries = rows["sketch"][labels["sketch"] == 0]
    limit = known.judge(queries, "sketch", "photo", np.ones(len(queries)))[0].threshold
    for cosine in np.linspace(-1, 1, 41):
        [verdict] = known.judge(queries[:1], "sketch", "photo", np.array([cosine]))
        assert verdict.distance == pytest.approx((1 - cosine) * np.sqrt(2 - 2 * cosine), abs=1e-6)
        assert verdict.null == (verdict.distance > limit)
        assert not verdict.null or f"{verdict.distance:.3g}" in verdict.reason("sketch", "photo")


def test_the_domain_is_told_by_the_vector_and_what_is_far_from_all_is_not():
    rows, _ = made()
    known = OpenSet.fit(rows)
    for name in rows:
        assert np.mean([domain == name for domain in known.domains_of(rows[name])]) > 0.9
    strange = -rows["sketch"][:20]
    assert known.domains_of(strange) == [None] * 20


def test_both_directions_know_the_same_pairs_and_it_is_kept_to_the_bit(tmp_path):
    rows, _ = made()
    rows["clip"] = rows["sketch"][::-1].copy()
    known = OpenSet.fit(rows)
    known.save(tmp_path / "open_set.safetensors")
    again = OpenSet.load(tmp_path / "open_set.safetensors", list(rows))
    assert list(again.distances) and set(again.distances) == set(known.distances)
    for pair, quantiles in known.distances.items():
        assert np.array_equal(quantiles, again.distances[pair], equal_nan=True)
        back = known.distances[pair[::-1]]
        assert (~np.isnan(quantiles[:, 0])).sum() == (~np.isnan(back[:, 0])).sum()
    assert np.array_equal(known.weights, again.weights) and np.array_equal(known.bias, again.bias)


def test_one_domain_alone_or_an_empty_one_is_refused():
    rows, _ = made()
    with pytest.raises(ValueError, match="two"):
        OpenSet.fit({"sketch": rows["sketch"]})
    with pytest.raises(ValueError, match="without rows"):
        OpenSet.fit(rows | {"photo": rows["photo"][:0]})


def test_clusters_without_a_counterpart_are_all_refused():
    """A domain whose clusters lie elsewhere altogether shares nothing."""
    rows, _ = made()
    known = OpenSet.fit(rows)
    nowhere = replace(
        known, distances={pair: np.full_like(one, np.nan) for pair, one in known.distances.items()}
    )
    shares = nowhere.refused(rows, 1.0)
    assert set(shares.values()) == {1.0} and max(known.refused(rows, 1.0).values()) < 0.5


# Through an index. ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return built_index(tmp_path_factory.mktemp("open"))


def verdicts_of(index: Index, embeddings, query: str, gallery: str, **more) -> list[bool]:
    vectors = embeddings.vectors(query)
    found = [answer.by_domain for answer in index.search(vectors, [gallery], 3)]
    judged = judge(index, vectors, found, **more)
    assert judged is not None
    return [one.reason([gallery]) is not None for one in judged]


def test_an_index_says_what_a_gallery_lacks_also_after_changes(built, tmp_path):
    embeddings, catalog, path, labels = built
    private = ~np.isin(labels["sketch"], labels["photo"])
    said = np.array(verdicts_of(Index.open(path), embeddings, "sketch", "photo", domain="sketch"))
    assert (said == private).mean() > 0.95
    refused = Index.open(path).manifest.common.refused
    assert {(one.query, one.gallery) for one in refused} == {("sketch", "photo"), ("photo", "sketch")}
    shares = {one.query: one.share for one in refused}
    assert shares["sketch"] == pytest.approx(private.mean(), abs=0.1)
    delete(path, [embeddings.ids("photo").to_pylist()[3]])
    for change in (lambda: compact(path), lambda: add(path, embeddings, catalog)):
        changed = change()
        again = verdicts_of(Index.open(path), embeddings, "sketch", "photo", domain="sketch")
        assert np.mean(np.array(again) == said) > 0.98 and changed.manifest.common is not None


def test_a_domain_that_is_unknown_or_the_querys_own_is_not_judged(built):
    embeddings, _, path, _ = built
    index = Index.open(path)
    vectors = embeddings.vectors("sketch")[-4:]
    found = [answer.by_domain for answer in index.search(vectors, None, 3)]
    for one in judge(index, vectors, found, "oil painting"):
        assert one.domain is None and one.verdicts == {} and one.reason(["photo"]) is None
    for one, by_domain in zip(judge(index, vectors, found, "sketch"), found, strict=True):
        assert set(one.verdicts) == {"photo"} and one.reason(["photo", "sketch"]) is None
        assert one.kept(by_domain) == by_domain | {"photo": []}
        assert one.reason(["photo"]).endswith("like this one have no counterpart in photo")


def test_an_index_built_without_it_judges_nothing(tmp_path, built):
    embeddings, catalog, _, _ = built
    index = build(embeddings, catalog, tmp_path / "index")
    assert index.open_set is None and judge(index, embeddings.vectors("photo"), []) is None


def test_one_domain_alone_cannot_be_built_with_it(tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 9})
    embeddings = make_embeddings(tmp_path / "embeddings", catalog)
    with pytest.raises(UserError, match="one alone: photo"):
        build(embeddings, catalog, tmp_path / "index", null=1.0)


def test_a_damaged_file_is_refused(built, tmp_path):
    embeddings, catalog, _, _ = built
    index = build(embeddings, catalog, tmp_path / "index", null=0.9)
    file = index.folder / "open_set.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"open_set.safetensors does not match"):
        Index.open(tmp_path / "index")


def test_from_the_command_line(built, tmp_path, capsys):
    embeddings, catalog, _, _ = built
    words = ["index", "build", str(embeddings.path), "--out", str(tmp_path / "index"), "--null"]
    assert cli.run([*words, "--null-quantile", "1.5"]) == 2
    assert "--null-quantile 1.5" in capsys.readouterr().err
    assert cli.run(words) == 0
    assert "sketch -> photo: of" in capsys.readouterr().out
    picture = tmp_path / "query.png"
    picture.write_bytes(catalog.read("sketch", ["image"])["image"].to_pylist()[-1])
    search = ["search", str(tmp_path / "index"), str(picture), "--domains", "photo", "--json", "-"]
    assert cli.run([*search, "--query-domain", "sketch"]) == 0
    [query] = json.loads(capsys.readouterr().out)["queries"]
    assert query["judged"]["query_domain"] == "sketch" and query["judged"]["inferred"] is False
    assert (query["null"] is None) == (query["judged"]["by_domain"]["photo"]["null"] is False)
    assert (query["hits"] == []) == (query["null"] is not None)
    assert cli.run([*search, "--null", "off"]) == 0
    [query] = json.loads(capsys.readouterr().out)["queries"]
    assert query["judged"] is None and query["null"] is None and len(query["hits"]) == 10
