"""The report's maps of the embedding: a sample of all domains, laid out by t-SNE. `scatter` returns PNG bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from ucdr_ray.evaluation.protocols import DomainVectors
from ucdr_ray.evaluation.report_plots import colours_of, png_of

POINTS, NAMED, NEIGHBOURS = 1000, 10, 10
_GREY = "#c9ced6"


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
