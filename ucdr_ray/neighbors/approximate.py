"""Neighbour graphs by approximate search, with what is known of their quality."""

from dataclasses import dataclass

from torch import Tensor

from ucdr_ray.neighbors.clusters import Clusters, Sample, near
from ucdr_ray.neighbors.mutual import Graph, graphs, neighbour_graphs
from ucdr_ray.neighbors.nearest import Nearest
from ucdr_ray.neighbors.recall import Recall, mutual_recall
from ucdr_ray.neighbors.search import Rows
from ucdr_ray.neighbors.sparse import Grouped, search_near

WORTH = 0.25  # share of all pairs of rows; where more would be compared, exact search is as fast


@dataclass(frozen=True)
class Quality:
    """`compared`: share of all pairs of rows whose score was computed, 1 for exact search; `recall` of mutual pairs."""

    compared: float
    recall: Recall


def approximate_graphs(
    a: Tensor, b: Tensor | None, k: int, mutual: bool = True, seed: int = 0
) -> tuple[Graph, Graph, Quality]:
    """Nearly the graphs of `neighbour_graphs`, whose arguments these are, in a fraction of the time for many rows.

    What is missing are single neighbours of some rows. Where neighbours are too scattered to gain anything, which
    happens across domains, the search is exact.

    Args:
        seed: of the samples by which rows are clustered and recall is measured.
    """
    other = a if b is None else b
    if not (bool(a.isfinite().all()) and bool(other.isfinite().all())):
        raise ValueError("vectors to search must be finite")
    if min(len(a), len(other)) == 0:
        return _exact(a, b, k, mutual)
    sample = Sample.of(a, len(a), seed)
    clusters = Clusters.fit(sample, seed)
    sorted_a = Grouped.of(Rows.all(a), clusters.assign(a), len(clusters))
    if b is None:
        wanted, sorted_b = near(clusters, sample, clusters, None, k), sorted_a
    else:
        sample_b = Sample.of(b, len(b), seed + 1)
        clusters_b = Clusters.fit(sample_b, seed)
        wanted = near(clusters, sample, clusters_b, sample_b, k)
        sorted_b = Grouped.of(Rows.all(b), clusters_b.assign(b), len(clusters_b))
    share = compared(sorted_a, sorted_b, wanted)
    if share > WORTH:
        return _exact(a, b, k, mutual)
    there = _lists(sorted_a, sorted_b, wanted, k, b is None)
    back = None if b is None else _lists(sorted_b, sorted_a, wanted.T, k, False)
    # Another seed: rows that made the clusters are served better than others.
    recall = mutual_recall(a, there, b, back, seed + 2)
    return *graphs(there, back, mutual), Quality(share, recall)


def compared(a: Grouped, b: Grouped, near: Tensor) -> float:
    """Share of the pairs of rows that stand in near clusters."""
    size, other = a.first.diff().double(), b.first.diff().double()
    return float(size @ near.double() @ other) / (len(a) * len(b))


def _lists(a: Grouped, b: Grouped, near: Tensor, k: int, inside: bool) -> Tensor:
    found = Nearest(len(a), k, a.rows.vectors.device)
    search_near(a, found, b, near, inside)
    return a.unsorted(found.codes())


def _exact(a: Tensor, b: Tensor | None, k: int, mutual: bool) -> tuple[Graph, Graph, Quality]:
    there, back = neighbour_graphs(a, b, k, mutual)
    return there, back, Quality(1.0, Recall(1.0, 0))
