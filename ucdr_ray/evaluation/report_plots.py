"""The report's figures: curves of the training, and maps of the embedding. Each returns PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ucdr_ray.evaluation.protocols import DomainVectors

POINTS, NAMED, NEIGHBOURS = 1000, 10, 10
_LINES = 12
_GREY = "#c9ced6"
_STAGES = ("#eef3fb", "#f6f1e7", "#edf6ee")


@dataclass(frozen=True)
class Sample:
    """P points of all domains: unit vectors float32 (P, d) before and after, with domain and label of each."""

    before: np.ndarray
    after: np.ndarray
    domains: np.ndarray
    labels: np.ndarray
    named: list[str]


def draw_sample(before: Mapping[str, DomainVectors], after: Mapping[str, DomainVectors], seed: int) -> Sample:
    """At most 1,000 images by seed, equally many of each domain; images of ten classes, which get colours, first."""
    rng = np.random.default_rng(seed)
    known = sorted({label for domain in before.values() for label in domain.labels if label is not None})
    named = sorted(rng.permutation(known)[:NAMED].tolist())
    chosen = {}
    for name, domain in before.items():
        order = rng.permutation(len(domain.labels))
        share = min(len(order), POINTS // len(before))
        if len(known) > NAMED:  # else every class has its colour, and a plain sample shows their true sizes
            first = [row for row in order if domain.labels[row] in named][: share // 2]
            order = np.array([*first, *(row for row in order if row not in set(first))], dtype=int)
        chosen[name] = order[:share]
    return Sample(
        np.concatenate([before[name].vectors[rows] for name, rows in chosen.items()]),
        np.concatenate([after[name].vectors[rows] for name, rows in chosen.items()]),
        np.concatenate([np.full(len(rows), name) for name, rows in chosen.items()]),
        np.array([before[name].labels[row] or "" for name, rows in chosen.items() for row in rows]),
        named,
    )


def mixing(vectors: np.ndarray, domains: np.ndarray) -> float:
    """How mixed the domains are: of each point's 10 nearest, the share from other domains, over what chance gives.

    0: every domain by itself; 1: neighbours do not know domains.
    """
    count = min(NEIGHBOURS, len(vectors) - 1)
    near = NearestNeighbors(n_neighbors=count, metric="cosine").fit(vectors).kneighbors(return_distance=False)
    observed = (domains[near] != domains[:, None]).mean()
    expected = (domains[:, None] != domains[None, :]).sum() / (len(domains) * (len(domains) - 1))
    return float(observed / expected)


def project(vectors: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE by cosine to float32 (P, 2)."""
    perplexity = min(30, max(1, (len(vectors) - 1) // 3))
    tsne = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed)
    with threadpool_limits(
        1
    ):  # its many small loops gain nothing from threads, and lose tenfold on busy cores
        return tsne.fit_transform(vectors)


def scatter(points: np.ndarray, groups: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """A map: points (P, 2) coloured by the group that each is of; groups that are not in ``names`` are grey."""
    figure = Figure(figsize=(5.4, 5.3))
    axes = figure.add_axes((0.01, 0.14, 0.98, 0.8))  # the same place in every map, whatever its legend
    other = ~np.isin(groups, names)
    if other.any():
        axes.scatter(points[other, 0], points[other, 1], s=7, color=_GREY, linewidths=0, label="others")
    size = 12 if (~other).sum() > 200 else 30  # few of a class, one emoji in each style, must not be lost
    for name, colour in zip(names, colours_of(len(names)), strict=True):
        own = points[groups == name]
        axes.scatter(own[:, 0], own[:, 1], s=size, color=colour, alpha=0.8, linewidths=0, label=name)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    columns = 4 if max(map(len, names)) < 14 else 3
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.14), "ncols": columns}
    figure.legend(fontsize=8, frameon=False, markerscale=1.5, handletextpad=0.1, columnspacing=0.8, **place)
    return png_of(figure)


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


def colours_of(count: int) -> list[Any]:
    """As many colours, to be told apart."""
    palette = matplotlib.colormaps["tab10" if count <= 10 else "turbo"]
    return [palette(i) if count <= 10 else palette(i / (count - 1)) for i in range(count)]


def png_of(figure: Figure) -> bytes:
    """The figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
