"""The tables of `uem.py`: retrieval in each setting, and how often it is told right that there is nothing."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from rich.console import Console
from rich.table import Table
from study import percent

from ucdr_ray.evaluation.protocols import SETTINGS, Setting

KINDS = ("private", "shared", "all")
DETECTORS = {"prototypes": "B.1", "distances": "B.2"}
COMPARED = ("zero", "uem", "alignment")  # the rest are ablations of UEM


@dataclass(frozen=True)
class Row:
    """Figures of one run, means over its pairs."""

    setting: Setting
    task: str
    seed: int
    method: str
    map: float
    accuracy: dict[str, dict[str, float | None]]  # detector -> kind of query -> share of right answers
    merged: float  # share of the query domain's clusters that merged with one of the gallery's
    constant: float  # right answers of whoever always says the same, what is right more often

    @classmethod
    def of(cls, setting: Setting, task: str, seed: int, method: str, found: dict[str, Any]) -> Self:
        """From what `ucdr evaluate --null` wrote."""
        told = found["open_set"].values()
        accuracy = {
            detector: {kind: _mean([one[detector][kind] for one in told]) for kind in KINDS}
            for detector in DETECTORS
        }
        merged = statistics.fmean(one["merged"][0] / one["merged"][1] for one in told)
        lacking = [counts["without_relevant"] / counts["used"] for counts in found["queries"].values()]
        constant = statistics.fmean(max(share, 1 - share) for share in lacking)
        return cls(setting, task, seed, method, found["mean"]["map@all"], accuracy, merged, constant)

    def told(self, detector: str, kind: str) -> float:
        """Share of right answers; `balanced`: as if there were as many queries of both kinds."""
        if kind == "balanced":
            return statistics.fmean(self.told(detector, one) for one in ("private", "shared"))
        return self.accuracy[detector][kind] or 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    some = [value for value in values if value is not None]
    return statistics.fmean(some) if some else None


def show(rows: Sequence[Row]) -> dict[str, float]:
    """All tables; flat keys -> numbers."""
    console, keys = Console(width=170), dict[str, float]()
    compared = [row for row in rows if row.method in COMPARED]
    for setting in SETTINGS:
        some = [row for row in compared if row.setting == setting]
        tasks = list(dict.fromkeys(row.task for row in some))
        table = Table("", title=f"{setting}-set, map@all %, of queries with something to find")
        for task in [*tasks, "mean"]:
            table.add_column(task, justify="right")
        for method in dict.fromkeys(row.method for row in some):
            mine = [row for row in some if row.method == method]
            values = [[row.map for row in mine if row.task == task] for task in tasks]
            cells = [percent(value) if value else "" for value in values]
            if all(values):
                means = _by_seed(mine, [row.map for row in mine])
                cells.append(percent(means))
                keys[f"{prefix(method)}{setting}.map@all"] = statistics.fmean(means)
            table.add_row(method, *cells)
        console.print(table)
    keys |= _accuracies([row for row in compared if row.setting == "open"], console)
    return keys | _ablations([row for row in rows if row.setting == "open"], console)


def prefix(method: str) -> str:
    """Of a method's keys."""
    return "" if method == "uem" else f"{method.replace(' ', '_')}."


def detector_of(method: str) -> str:
    """By which the method's accuracy is told: UEM and its ablations have prototypes in common, the others need not."""
    return "distances" if method in ("zero", "alignment") else "prototypes"


def _by_seed(rows: Sequence[Row], values: Sequence[float]) -> list[float]:
    """Means over the tasks of each seed; a value for each row."""
    found: dict[int, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        found.setdefault(row.seed, []).append(value)
    return [statistics.fmean(some) for some in found.values()]


def _accuracies(rows: Sequence[Row], console: Console) -> dict[str, float]:
    keys = dict[str, float]()
    tasks = list(dict.fromkeys(row.task for row in rows))
    title = "open-set, right answers %: gallery lacks it / has it / all (refusing everything: 100 / 0)"
    table = Table("", "by", title=title)
    for task in [*tasks, "mean", "balanced", "merged"]:
        table.add_column(task, justify="right")
    for method, detector in product(dict.fromkeys(row.method for row in rows), DETECTORS):
        mine = [row for row in rows if row.method == method]
        cells = []
        for task in tasks:
            told = [row.accuracy[detector] for row in mine if row.task == task]
            kinds = [[share for one in told if (share := one[kind]) is not None] for kind in KINDS]
            cells.append(" / ".join(f"{100 * statistics.fmean(kind):.1f}" for kind in kinds) if told else "")
        if all(cells):
            means = _by_seed(mine, [row.told(detector, "all") for row in mine])
            balanced = _by_seed(mine, [row.told(detector, "balanced") for row in mine])
            cells += [percent(means), percent(balanced)]
            cells += (
                [percent(_by_seed(mine, [row.merged for row in mine]))] if detector == "prototypes" else []
            )
            if detector == detector_of(method):
                keys[f"{prefix(method)}open.accuracy"] = statistics.fmean(means)
            keys[f"{prefix(method)}open.accuracy.{detector}"] = statistics.fmean(means)
            keys[f"{prefix(method)}open.accuracy.{detector}.balanced"] = statistics.fmean(balanced)
        table.add_row(method, DETECTORS[detector], *cells)
    if constant := [row for row in rows if row.method == "zero"]:
        by_task = [
            f"{100 * statistics.fmean(row.constant for row in constant if row.task == task):.1f}"
            for task in tasks
        ]
        means = _by_seed(constant, [row.constant for row in constant])
        table.add_row("always the same", "", *by_task, percent(means), "50.00", "")
        keys["constant.open.accuracy"] = statistics.fmean(means)
    console.print(table)
    return keys


def _ablations(rows: Sequence[Row], console: Console) -> dict[str, float]:
    """UEM without a part, over the tasks on which these were trained."""
    keys = dict[str, float]()
    ablations = [row for row in rows if row.method not in COMPARED]
    tasks = list(dict.fromkeys(row.task for row in ablations))
    seeds = {row.seed for row in ablations}
    whole = [row for row in rows if row.method == "uem" and row.task in tasks and row.seed in seeds]
    if not whole or not ablations:
        return keys
    table = Table("", title="ablations, open-set: map@all %, and by B.1 right answers and clusters merged %")
    for heading in [*tasks, "mean", "right", "balanced", "merged"]:
        table.add_column(heading, justify="right")
    for method in ["uem", *dict.fromkeys(row.method for row in ablations)]:
        mine = [row for row in [*whole, *ablations] if row.method == method]
        by_task = [[row.map for row in mine if row.task == task] for task in tasks]
        cells = [percent(values) if values else "" for values in by_task]
        if all(by_task):
            figures = {
                "map@all": _by_seed(mine, [row.map for row in mine]),
                "accuracy": _by_seed(mine, [row.told("prototypes", "all") for row in mine]),
                "balanced": _by_seed(mine, [row.told("prototypes", "balanced") for row in mine]),
                "merged": _by_seed(mine, [row.merged for row in mine]),
            }
            cells += [percent(values) for values in figures.values()]
            if method != "uem":
                keys |= {f"{prefix(method)}open.{name}": statistics.fmean(v) for name, v in figures.items()}
        table.add_row(method, *cells)
    console.print(table)
    return keys
