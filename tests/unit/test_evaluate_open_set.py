"""Detectors of what a gallery lacks, against loops of the test's own."""

import numpy as np
import pytest

from tests.categories import made
from ucdr_ray.errors import UserError
from ucdr_ray.evaluation.open_set import accuracy, evaluate_open_set, far, nearest_cosines
from ucdr_ray.evaluation.protocols import DomainVectors
from ucdr_ray.index.open_set import OpenSet


def domains(**more):
    rows, labels = made()
    return {
        name: DomainVectors(
            rows[name], more.get(name, [str(one) for one in labels[name]]), ["x"] * len(rows[name])
        )
        for name in rows
    }


def test_shares_of_right_answers_of_each_kind():
    null, private = np.array([1, 0, 1, 0, 0], bool), np.array([1, 1, 0, 0, 0], bool)
    assert accuracy(null, private) == {"private": 0.5, "shared": pytest.approx(2 / 3), "all": 0.6}
    assert accuracy(null[2:], private[2:])["private"] is None


def test_both_detectors_on_both_directions():
    found = evaluate_open_set(domains())
    assert set(found) == {"sketch->photo", "photo->sketch"}
    for pair in found.values():
        assert pair["prototypes"] == {"private": 1.0, "shared": 1.0, "all": 1.0}
        assert pair["merged"] == [6, 8] and len(pair["curve"]) == 21
        assert pair["curve"]["1.00"] == pair["prototypes"]
        shared = [point["shared"] for point in pair["curve"].values()]
        assert shared == sorted(shared) and shared[0] < 0.7
        assert pair["distances"]["private"] == 1.0  # made far apart


def test_unlabelled_queries_do_not_count_and_a_domain_without_labels_is_refused():
    _, labels = made()
    some = [str(one) if one < 7 else None for one in labels["sketch"]]
    found = evaluate_open_set(domains(sketch=some))["sketch->photo"]["prototypes"]
    assert found == {"private": 1.0, "shared": 1.0, "all": 1.0}
    with pytest.raises(UserError, match="'photo' has no labels"):
        evaluate_open_set(domains(photo=[None] * len(labels["photo"])))


@pytest.mark.parametrize("quantile", [1.0, 0.8])
def test_far_is_farther_than_a_cluster_is_wide(quantile):
    rows, labels = made()
    queries, gallery = rows["sketch"], rows["photo"]
    cosines = nearest_cosines(queries, gallery)
    assert cosines[:3] == pytest.approx([max(float(q @ g) for g in gallery) for q in queries[:3]], abs=1e-5)
    expected = []
    for label, cosine in zip(labels["sketch"], cosines, strict=True):
        own = queries[labels["sketch"] == label].astype(np.float64)
        apart = [1 - own[i] @ own[j] for i in range(len(own)) for j in range(i)]
        expected.append(bool(1 - cosine > np.quantile(apart, quantile)))
    prototypes = OpenSet.fit(rows).known["sketch"].prototypes
    assert far(queries, prototypes, queries, cosines, quantile).tolist() == expected
    assert any(expected) and not all(expected)
