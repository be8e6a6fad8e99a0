"""The picture of `ucdr neighbors`: who has a mutual neighbour by k, and how many at one k."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from ucdr_ray.evaluation.report_plots import colours_of, png_of
from ucdr_ray.neighbors.sparsity import BINS, Sparsity

_NONE = "#d9603b"
_WIDTH, _PANEL, _BAR = 11.0, 2.6, 0.21  # inches: of the picture, a panel's and a bar's height


def sparsity_plot(found: Sequence[Sparsity], k: int, marks: Sequence[int], title: str) -> bytes:
    """A panel per domain with a curve per other domain, and a bar per pair; PNG bytes.

    Args:
        found: what `sparsity` gave.
        k: the number of neighbours whose degrees are shown.
        marks: numbers of neighbours to mark in the panels: those that a training uses.
    """
    names = [pair.domain for pair in found if pair.domain == pair.other]
    columns = len(names) if len(names) <= 4 else 3 if len(names) <= 6 else 4
    rows = math.ceil(len(names) / columns)
    heights = [0.8 + _PANEL * rows, 1.4 + _BAR * (len(found) + len(names))]
    with matplotlib.rc_context({"text.parse_math": False}):  # a domain's name is no formula
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        parts = figure.add_gridspec(2, 1, height_ratios=heights)
        _curves(figure.add_subfigure(parts[0]), found, names, columns, rows, marks)
        _bars(figure.add_subfigure(parts[1]), found, k)
        return png_of(figure)


def _curves(
    figure: SubFigure,
    found: Sequence[Sparsity],
    names: list[str],
    columns: int,
    rows: int,
    marks: Sequence[int],
) -> None:
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    colours = dict(zip(names, colours_of(len(names)), strict=True))
    for name, axes in zip(names, panels, strict=False):
        for pair in (pair for pair in found if pair.domain == name):
            ks, shares = list(pair.mutual), [100 * degrees.share for degrees in pair.mutual.values()]
            style = "--" if pair.other == name else "-"
            axes.plot(ks, shares, style, color=colours[pair.other], lw=1.6, marker="o", ms=3)
        for mark in marks:
            axes.axvline(mark, color="#8a929e", lw=0.8, zorder=0)
        axes.set_title(f"images of {name}", loc="left", fontsize=10)
        axes.set_xscale("log")
        axes.set_xticks(ks, [str(k) for k in ks], fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(labelbottom=True, labelsize=8)
        axes.set_ylim(0, 103)
        axes.grid(axis="y", color="#e6e9ee", lw=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("k" + ("; lines mark those of the training" if marks else ""), fontsize=9)
    figure.supylabel("% with a mutual neighbour", fontsize=9)
    lines = [Line2D([], [], color=colour, lw=2) for colour in colours.values()]
    lines.append(Line2D([], [], color="#5b6470", lw=1.6, ls="--"))
    figure.legend(
        lines, [f"neighbours in {name}" for name in names] + ["inside the domain"],
        loc="outside upper left", ncols=5, fontsize=8, frameon=False,
    )  # fmt: skip


def _bars(figure: SubFigure, found: Sequence[Sparsity], k: int) -> None:
    # With a gap before each domain.
    starts = [int(i > 0 and pair.domain != found[i - 1].domain) for i, pair in enumerate(found)]
    place = np.arange(len(found)) + 0.8 * np.cumsum(starts)
    left, right = figure.subplots(1, 2, sharey=True)
    mutual = np.array([pair.mutual[k].histogram for pair in found], dtype=float)
    named = np.array([pair.named[k].histogram for pair in found], dtype=float)
    shown = 1 + int(np.flatnonzero((mutual + named).any(0)).max())
    colours = [_NONE, *matplotlib.colormaps["Blues"](np.linspace(0.2, 1.0, len(BINS) - 1))][:shown]
    _stacked(left, place, mutual, colours)
    _stacked(right, place, named, colours)
    left.set_title(f"images by number of mutual neighbours, k = {k}", loc="left", fontsize=10)
    right.set_title(f"by how many name them among their own {k} nearest", loc="left", fontsize=10)
    left.set_yticks(place, [label(pair) for pair in found], fontsize=8)
    left.set_ylim(place[-1] + 0.6, -0.6)
    patches = [Patch(color=colour) for colour in colours]
    figure.legend(
        patches, BINS[:shown], loc="outside upper left", ncols=len(patches), fontsize=8, frameon=False,
        handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip


def _stacked(axes: Axes, place: np.ndarray, counts: np.ndarray, colours: Sequence[object]) -> None:
    shares = 100 * counts / counts.sum(1, keepdims=True)
    start = np.cumsum(shares, axis=1) - shares
    for number, colour in enumerate(colours):
        width, left = shares[:, number], start[:, number]
        axes.barh(place, width, height=0.82, left=left, color=colour, edgecolor="white", linewidth=0.3)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of images", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def label(pair: Sparsity) -> str:
    """Such as `photo → sketch` and `inside photo`."""
    return f"inside {pair.domain}" if pair.domain == pair.other else f"{pair.domain} → {pair.other}"
