"""What the benchmark of UEM makes of its runs' figures."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import uem_tables

    yield uem_tables
    for name in ("uem_tables", "study"):
        sys.modules.pop(name, None)


def found(share: float, right: tuple[float, float], merged: int = 2) -> dict:
    """As `ucdr evaluate --null` writes it, of one pair where the gallery lacks what 60 of 100 queries show."""
    private, shared = right
    told = {"private": private, "shared": shared, "all": 0.6 * private + 0.4 * shared}
    return {
        "mean": {"map@all": share},
        "queries": {"a->b": {"used": 100, "without_relevant": 60}},
        "open_set": {"a->b": {"prototypes": told, "distances": told, "merged": [merged, 8]}},
    }


def test_means_are_over_tasks_and_then_seeds_and_ablations_over_their_own_tasks(tables, capsys) -> None:
    tasks = ["a → b", "c → d", "a → b, d"]
    rows = []
    for seed in (1, 2):
        for number, task in enumerate(tasks):
            for method, share in (("zero", 0.1), ("uem", 0.3), ("alignment", 0.2)):
                for setting in ("close", "partial", "open"):
                    made = found(share + 0.1 * number, (1.0, 0.5))
                    rows.append(tables.Row.of(setting, task, seed, method, made))
        for task in tasks[:2]:
            rows.append(tables.Row.of("open", task, seed, "no merging", found(0.5, (0.0, 1.0), merged=0)))
    keys = tables.show(rows)
    assert keys["open.map@all"] == pytest.approx(0.4) and keys["zero.partial.map@all"] == pytest.approx(0.2)
    assert keys["open.accuracy"] == pytest.approx(0.8)
    assert keys["open.accuracy.prototypes.balanced"] == pytest.approx(0.75)
    assert keys["constant.open.accuracy"] == pytest.approx(0.6)
    assert keys["no_merging.open.map@all"] == pytest.approx(0.5)
    assert keys["no_merging.open.accuracy"] == pytest.approx(0.4)
    assert keys["no_merging.open.balanced"] == pytest.approx(0.5)
    assert keys["no_merging.open.merged"] == 0
    ablations = capsys.readouterr().out.split("ablations, open-set")[1]
    # UEM beside its ablations, over the two tasks that these have.
    (whole,) = [line for line in ablations.splitlines() if "uem" in line]
    assert "30.00" in whole and "40.00" in whole and "35.00" in whole and "25.00" in whole
