import warnings

import numpy as np
import pytest

from ucdr_ray.evaluation import probe as probing
from ucdr_ray.evaluation.probe import probe


def vectors(rng, kinds, strength):
    """Noise, and one direction for each kind."""
    found = rng.standard_normal((len(kinds), 16))
    found[np.arange(len(kinds)), kinds] += strength
    return found


def test_what_stands_in_a_direction_is_found_and_what_does_not_is_guessed():
    rng = np.random.default_rng(0)
    kinds = rng.integers(4, size=600)
    names = [f"kind {kind}" for kind in kinds]
    assert probe(vectors(rng, kinds, 20.0), names) > 0.99
    assert probe(vectors(rng, kinds, 0.0), names) == pytest.approx(0.25, abs=0.06)
    middle = probe(vectors(rng, kinds, 2.0), names)
    assert 0.5 < middle < 0.95


def test_a_frequent_kind_gives_nothing_for_free():
    rng = np.random.default_rng(1)
    kinds = (rng.random(1000) < 0.05).astype(int)
    assert probe(rng.standard_normal((1000, 8)), kinds.astype(str)) == pytest.approx(0.5, abs=0.1)


def test_the_same_seed_gives_the_same_figure():
    rng = np.random.default_rng(2)
    kinds = rng.integers(3, size=200)
    found = vectors(rng, kinds, 1.0)
    assert probe(found, kinds.astype(str), 5) == probe(found, kinds.astype(str), 5)


def test_too_few_give_no_figure():
    assert probe(np.zeros((8, 2)), ["a"] * 6 + ["b"] * 2) is None
    assert probe(np.zeros((0, 2)), []) is None


def test_kinds_that_are_rare_in_the_sample_are_left_out(monkeypatch):
    """Among many more vectors than are looked at: folds without one of them would count as a miss."""
    monkeypatch.setattr(probing, "_MOST", 200)
    rng = np.random.default_rng(3)
    kinds = np.array([0] * 1000 + [1] * 1000 + [2] * 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe(vectors(rng, kinds, 20.0), kinds.astype(str)) > 0.99
