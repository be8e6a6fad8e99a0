"""The report's curves of the training, and what every figure needs. Figures are returned as PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

_LINES = 12
_STAGES = ("#eef3fb", "#f6f1e7", "#edf6ee")


def curves(epochs: Sequence[Mapping[str, Any]], prefix: str, title: str, share: bool) -> bytes | None:
    """Every column of the epochs that starts with ``prefix``, with the stages behind; None where there is none.

    Args:
        epochs: rows of ``metrics.jsonl``.
        share: columns are fractions 0..1, shown as percentages, and those across domains get their mean.
    """
    names = sorted({name for row in epochs for name in row if name.startswith(prefix)})
    if not names:
        return None
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    _stages(axes, epochs)
    # Many pairs are told apart by the domain that asks; a line each is drawn, a name each is not.
    groups = [_label(name).partition(" → ")[0] if len(names) > _LINES else _label(name) for name in names]
    colours = dict(zip(dict.fromkeys(groups), colours_of(len(set(groups))), strict=True))
    for name, group in zip(names, groups, strict=True):
        rows = [row for row in epochs if row.get(name) is not None]
        values = [(100 if share else 1) * row[name] for row in rows]
        axes.plot([row["epoch"] for row in rows], values, color=colours[group], lw=1.5, marker=".", ms=4)
    axes.set_xlabel("epoch")
    axes.set_ylabel("% of images" if share else "loss")
    axes.set_title(title, loc="left", fontsize=11, pad=18)
    axes.margins(x=0.01)
    if share:
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=colour, lw=2) for colour in colours.values()]
    figure.legend(handles, list(colours), loc="outside right center", fontsize=8, frameon=False)
    return png_of(figure)


def _stages(axes: Axes, epochs: Sequence[Mapping[str, Any]]) -> None:
    starts = [
        row for place, row in enumerate(epochs) if place == 0 or row["stage"] != epochs[place - 1]["stage"]
    ]
    ends = [row["epoch"] for row in starts[1:]] + [epochs[-1]["epoch"] + 1]
    for place, (row, end) in enumerate(zip(starts, ends, strict=True)):
        axes.axvspan(row["epoch"] - 0.5, end - 0.5, color=_STAGES[place % len(_STAGES)], zorder=0)
        axes.annotate(
            str(row["stage"]).replace("_", " "), (row["epoch"] - 0.5, 1), xycoords=("data", "axes fraction"),
            xytext=(2, 3), textcoords="offset points", fontsize=8, color="#5b6470",
        )  # fmt: skip


def _label(name: str) -> str:
    return name.removeprefix("share/").replace("loss_", "L_").replace("->", " → ")


def trade_off(found: Mapping[str, Any]) -> bytes | None:
    """Private queries detected against shared ones wrongly refused, over quantiles; None where no pair has both.

    Args:
        found: of `ucdr_ray.evaluation.open_set.evaluate_open_set`.
    """
    both = {pair: values for pair, values in found.items() if None not in values["prototypes"].values()}
    if not both:
        return None
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    axes = figure.subplots()
    groups = [pair.partition("->")[0] if len(both) > _LINES else _label(pair) for pair in both]
    colours = dict(zip(dict.fromkeys(groups), colours_of(len(set(groups))), strict=True))
    for values, group in zip(both.values(), groups, strict=True):
        points = [_point(share) for share in values["curve"].values()]
        axes.plot(*zip(*points, strict=True), color=colours[group], lw=1.5, marker=".", ms=4)
        for name, marker in (("prototypes", "o"), ("distances", "X")):
            axes.plot(
                *_point(values[name]), color=colours[group], marker=marker, ms=8, mec="white", ls="none"
            )
    axes.plot([0, 100], [0, 100], color="#9aa3ad", lw=1, ls=":")
    axes.set(xlim=(-3, 103), ylim=(-3, 103), xlabel="% of shared queries wrongly refused")
    axes.set_ylabel("% of private queries detected")
    axes.set_title("Nothing here matches", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=colour, lw=2, label=name) for name, colour in colours.items()]
    handles += [
        Line2D([], [], color="#5b6470", lw=1.5, marker="o", label="prototypes (B.1)"),
        Line2D([], [], color="#5b6470", ls="none", marker="X", label="distances (B.2)"),
        Line2D([], [], color="#9aa3ad", lw=1, ls=":", label="refusing at random"),
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    return png_of(figure)


def _point(share: Mapping[str, float]) -> tuple[float, float]:
    return 100 * (1 - share["shared"]), 100 * share["private"]


def colours_of(count: int) -> list[Any]:
    """As many colours, to be told apart."""
    palette = matplotlib.colormaps["tab10" if count <= 10 else "turbo"]
    return [palette(i) if count <= 10 else palette(i / (count - 1)) for i in range(count)]


def png_of(figure: Figure) -> bytes:
    """The figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
