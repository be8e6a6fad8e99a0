"""All ordered pairs: what counts as a query, what is relevant, in which order ties stand."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ucdr_ray.errors import UserError
from ucdr_ray.evaluation.protocols import DomainVectors, centre, evaluate_pairs


def domain(rows, labels, seed=0, dim=16):
    rng = np.random.default_rng(seed)
    return DomainVectors(
        rng.standard_normal((rows, dim)).astype(np.float32),
        [labels[i % len(labels)] for i in range(rows)],
        [rng.bytes(16).hex() for _ in range(rows)],
    )


def test_both_directions_of_every_pair_and_their_mean():
    domains = {name: domain(30, ["cat", "dog"], seed) for seed, name in enumerate(["photo", "sketch", "art"])}
    result = evaluate_pairs(domains, ks=(1, 10))
    assert list(result["pairs"]) == [
        "photo->sketch", "photo->art", "sketch->photo", "sketch->art", "art->photo", "art->sketch",
    ]  # fmt: skip
    metrics = ["map@all"] + [
        f"{name}@{k}" for name in ("precision", "capped_precision", "map") for k in (1, 10)
    ]
    for pair in result["pairs"].values():
        assert list(pair) == metrics
        assert all(0 <= value <= 1 for value in pair.values())
    for metric in metrics:
        assert result["mean"][metric] == pytest.approx(
            np.mean([pair[metric] for pair in result["pairs"].values()])
        )
    assert json.loads(json.dumps(result)) == result


def test_cosine_does_not_see_the_length_of_a_vector():
    a, b = domain(20, ["x", "y"], 1), domain(25, ["x", "y"], 2)
    longer = DomainVectors(a.vectors * np.arange(1, 21, dtype=np.float32)[:, None], a.labels, a.ids)
    assert evaluate_pairs({"a": a, "b": b}) == evaluate_pairs({"a": longer, "b": b})


def test_equal_scores_stand_in_the_order_of_ids_not_of_slots():
    query = DomainVectors(np.ones((1, 2), np.float32), ["cat"], ["q"])
    gallery = np.ones((3, 2), np.float32)
    found = {
        ids: evaluate_pairs({"q": query, "g": DomainVectors(gallery, ["cat", "dog", "dog"], list(ids))})
        for ids in ("abc", "cab", "cba")
    }
    assert [found[ids]["pairs"]["q->g"]["map@all"] for ids in ("abc", "cab", "cba")] == [1.0, 1 / 3, 1 / 3]
    # Equal ids, that is doubles by content, stand in the order of their slots.
    double = evaluate_pairs({"q": query, "g": DomainVectors(gallery, ["dog", "cat", "dog"], ["b", "b", "a"])})
    assert double["pairs"]["q->g"]["map@all"] == 1 / 3


def test_rows_without_a_label_are_skipped_as_queries_and_wrong_as_results():
    a = DomainVectors(np.eye(3, dtype=np.float32), ["cat", None, "dog"], ["1", "2", "3"])
    b = DomainVectors(np.eye(3, dtype=np.float32), [None, "cat", "dog"], ["1", "2", "3"])
    result = evaluate_pairs({"a": a, "b": b}, ks=(1,))
    assert result["queries"]["a->b"] == {"used": 2, "unlabelled": 1, "without_relevant": 0}
    assert (
        result["pairs"]["a->b"]["precision@1"] == 0.5
    )  # cat finds the row without a label first, dog finds dog


def test_classes_that_the_gallery_lacks_leave_map_and_count_against_precision():
    a = DomainVectors(np.eye(2, dtype=np.float32), ["cat", "fox"], ["1", "2"])
    b = DomainVectors(np.eye(2, dtype=np.float32), ["cat", "dog"], ["1", "2"])
    result = evaluate_pairs({"a": a, "b": b}, ks=(1,))
    assert result["queries"]["a->b"] == {"used": 2, "unlabelled": 0, "without_relevant": 1}
    assert result["pairs"]["a->b"] == {
        "map@all": 1.0,
        "precision@1": 0.5,
        "capped_precision@1": 1.0,
        "map@1": 1.0,
    }


def test_nothing_in_common_is_undefined_not_zero():
    result = evaluate_pairs({"a": domain(4, ["x"], 1), "b": domain(4, ["y"], 2)}, ks=(1,))
    assert result["mean"] == {"map@all": None, "precision@1": 0.0, "capped_precision@1": None, "map@1": None}


def test_domains_of_one_image_and_k_beyond_them():
    a, b = domain(1, ["x"], 1), domain(3, ["x", "y"], 2)
    result = evaluate_pairs({"a": a, "b": b}, ks=(200,))
    assert result["pairs"]["a->b"]["precision@200"] == 2 / 200
    assert result["pairs"]["b->a"]["capped_precision@200"] == 1.0
    assert evaluate_pairs({"a": a, "b": b}, centred=True)["pairs"]["a->b"]["map@all"] is not None


def test_centring_removes_what_a_domain_shares():
    rng = np.random.default_rng(0)
    content = rng.standard_normal((60, 16)).astype(np.float32)
    labels, ids = [str(i) for i in range(60)], [f"{i:02d}" for i in range(60)]
    shift = 3 * rng.standard_normal((2, 16)).astype(np.float32)
    domains = {
        "a": DomainVectors(content + shift[0], labels, ids),
        "b": DomainVectors(
            content + 0.5 * rng.standard_normal((60, 16)).astype(np.float32) + shift[1], labels, ids
        ),
    }
    plain, centred = evaluate_pairs(domains), evaluate_pairs(domains, centred=True)
    assert centred["centred"] and not plain["centred"]
    assert centred["mean"]["map@all"] > plain["mean"]["map@all"] + 0.1
    lengths = np.linalg.norm(centre(domains["a"]).vectors, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("domains", "ks", "message"),
    [
        ({"a": domain(3, ["x"])}, (1,), "at least 2 domains, got a"),
        ({"a": domain(3, ["x"]), "b": domain(3, [None])}, (1,), "'b' has no labels"),
        ({"a": domain(3, ["x"]), "b": domain(3, ["x"])}, (0,), "1 or more"),
        ({"a": domain(3, ["x"]), "b": domain(3, ["x"])}, (), "1 or more"),
    ],
)
def test_what_cannot_be_evaluated_is_said(domains, ks, message):
    with pytest.raises(UserError, match=message):
        evaluate_pairs(domains, ks)


@pytest.mark.parametrize("centred", [False, True])
def test_vectors_that_are_not_finite_get_no_score(centred):
    domains = {name: domain(5, ["cat"], seed) for seed, name in enumerate(["photo", "sketch"])}
    domains["sketch"].vectors[3, 2] = np.nan
    with pytest.raises(UserError, match="'sketch': 1 of 5 vectors are not finite"):
        evaluate_pairs(domains, (1,), centred)


def test_memory_stays_a_block_not_a_matrix():
    """12,000 × 12,000 scores are 576 MB; in a process of its own, the peak stays below a quarter of that."""
    code = """
import resource
import numpy as np
from ucdr_ray.evaluation.ranking import rank_relevant

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

rng = np.random.default_rng(0)
vectors, labels = rng.standard_normal((12_000, 8)).astype(np.float32), rng.integers(0, 50, 12_000)
rank_relevant(vectors[:32], labels[:32], vectors, labels, (1, 10))
before = peak()
rank_relevant(vectors, labels, vectors, labels, (1, 10), block_bytes=4 * 2**20)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 576e6 / 4
