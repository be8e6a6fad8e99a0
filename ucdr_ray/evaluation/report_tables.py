"""The report's tables as rows of text and colour; the template only lays them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FULL = 10.0  # points at which a difference has its full colour


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and its background ("" for none)."""

    text: str
    colour: str = ""


def percent(value: float | None) -> str:
    """A fraction as a percentage, one decimal; a dash where undefined."""
    return "–" if value is None else f"{100 * value:.1f}"


def difference(before: float | None, after: float | None) -> Cell:
    """The gain in points, green or red, the stronger the larger; full colour at 10 points."""
    if before is None or after is None:
        return Cell("–")
    points = round(100 * (after - before), 1)
    if points == 0:
        return Cell("0.0")
    strength = min(abs(points) / _FULL, 1.0)
    red, green, blue = (26, 150, 65) if points > 0 else (215, 48, 31)
    return Cell(f"{points:+.1f}", f"rgba({red},{green},{blue},{0.08 + 0.47 * strength:.2f})")


def summary(results: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[list[Cell]]:
    """A row per metric: its name, its mean over all pairs by each of the results, and the gains.

    Args:
        results: by name; the first is zero-training, the second that centred, the third trained.
    """
    return [_row(metric, [result["mean"][metric] for result in results.values()]) for metric in metrics]


def by_pair(results: Mapping[str, Mapping[str, Any]], metric: str) -> list[list[Cell]]:
    """A row per pair and one for the mean: the metric by the first three results (as in `summary`), and the gains."""
    chosen = list(results.values())[:3]
    rows = [
        _row(pair.replace("->", " → "), [result["pairs"][pair][metric] for result in chosen])
        for pair in chosen[0]["pairs"]
    ]
    return [*rows, _row("mean", [result["mean"][metric] for result in chosen])]


def _row(name: str, values: Sequence[float | None]) -> list[Cell]:
    gains = [difference(value, values[2]) for value in values[:2]]
    return [Cell(name), *(Cell(percent(value)) for value in values), *gains]


def refusals(found: Mapping[str, Any]) -> list[list[Cell]]:
    """A row per pair that has private queries, and one for the mean: right answers to them and to shared ones, by both.

    Args:
        found: of `ucdr_ray.evaluation.open_set.evaluate_open_set`.
    """
    told = {
        pair.replace("->", " → "): [
            values[detector][kind]
            for detector in ("prototypes", "distances")
            for kind in ("private", "shared", "all")
        ]
        for pair, values in found.items()
        if values["prototypes"]["private"] is not None
    }
    columns = zip(*told.values(), strict=True)
    means = [[value for value in column if value is not None] for column in columns]
    told["mean"] = [sum(some) / len(some) if some else None for some in means]
    return [[Cell(name), *(Cell(percent(value)) for value in values)] for name, values in told.items()]


def query_note(result: Mapping[str, Any]) -> str:
    """How many queries the figures rest on, summed over the pairs."""
    used, lost, bare = (
        sum(counts[key] for counts in result["queries"].values())
        for key in ("used", "without_relevant", "unlabelled")
    )
    return (
        f"{used:,} queries over all pairs; {lost:,} of them have nothing to find: they are not in map, and wrong in "
        f"precision@k. {bare:,} images without a label are no queries."
    )


def verdict(zero: Mapping[str, Any], centred: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """The outcome in one sentence, by map@all."""
    values = [result["mean"]["map@all"] for result in (zero, centred, trained)]
    if None in values:
        return "No pair of domains has a class in common: nothing can be found across them."
    pairs = [(zero["pairs"][p]["map@all"], trained["pairs"][p]["map@all"]) for p in zero["pairs"]]
    defined = [(before, after) for before, after in pairs if before is not None and after is not None]
    better = sum(after > before for before, after in defined)
    gains = [100 * (values[2] - value) for value in values[:2]]
    return (
        f"Mean map@all is {percent(values[2])} % after training: {gains[0]:+.1f} points against the same backbone "
        f"without training ({percent(values[0])} %), {gains[1]:+.1f} against centring it ({percent(values[1])} %). "
        f"{better} of {len(defined)} pairs got better."
    )
