"""Neighbour graphs by approximate search, with what is known of their quality."""

from dataclasses import dataclass

from torch import Tensor

from ucdr_ray.neighbors.clusters import Clusters, Sample, near
from ucdr_ray.neighbors.mutual import Graph, graphs, neighbour_graphs
from ucdr_ray.neighbors.nearest import Nearest
from ucdr_ray.neighbors.order import by_slot
from ucdr_ray.neighbors.recall import Here, Recall, mutual_recall
from ucdr_ray.neighbors.search import Rows
from ucdr_ray.neighbors.sparse import Grouped, search_near

WORTH = 0.25  # share of all pairs of rows; where more would be compared, exact search is as fast


@dataclass(frozen=True)
class Quality:
    """`compared`: share of all pairs of rows whose score was computed, 1 for exact search; `recall` of mutual pairs."""

    compared: float
    recall: Recall


EXACT = Quality(1.0, Recall(1.0, 0))


@dataclass(frozen=True)
class Clustered:
    """A domain's rows (N, D) and what an approximate search needs to know of them."""

    vectors: Tensor
    sample: Sample
    clusters: Clusters
    grouped: Grouped

    @classmethod
    def of(cls, vectors: Tensor, seed: int = 0) -> "Clustered":
        """
        Args:
            seed: of the sample by which rows are clustered; domains that are compared should have different ones.

        Raises:
            ValueError: a vector is not finite.
        """
        if not bool(vectors.isfinite().all()):
            raise ValueError("vectors to search must be finite")
        rows = Rows.all(vectors)
        sample = Sample.of(rows, len(rows), seed)
        clusters = Clusters.fit(sample, seed)
        return cls(vectors, sample, clusters, Grouped.of(rows, clusters.assign(vectors), len(clusters)))


def approximate_graphs(
    a: Clustered, b: Clustered | None, k: int, mutual: bool = True, seed: int = 0
) -> tuple[Graph, Graph, Quality]:
    """Nearly the graphs of `neighbour_graphs`, whose arguments these are, in a fraction of the time for many rows.

    What is missing are single neighbours of some rows. Where neighbours are too scattered to gain anything, which
    happens across domains, the search is exact.

    Args:
        seed: of the rows on which recall is measured.
    """
    other = a if b is None else b
    empty = min(len(a.vectors), len(other.vectors)) == 0
    if not empty:
        wanted = near(a.clusters, a.sample, other.clusters, None if b is None else b.sample, k)
        share = compared(a.grouped.sizes(), other.grouped.sizes(), wanted)
    if empty or share > WORTH:
        return *neighbour_graphs(a.vectors, None if b is None else b.vectors, k, mutual), EXACT
    there = _lists(a.grouped, other.grouped, wanted, k, b is None)
    back = None if b is None else _lists(b.grouped, a.grouped, wanted.T, k, False)
    there_side, back_side = Here(a.vectors, there), None if back is None else Here(other.vectors, back)
    return *graphs(there, back, mutual), Quality(share, mutual_recall(there_side, back_side, k, seed))


def compared(a: Tensor, b: Tensor, near: Tensor) -> float:
    """Share of the pairs of rows that stand in near clusters, which have (K_a,) and (K_b,) rows."""
    return float(a.double() @ near.double() @ b.double()) / (int(a.sum()) * int(b.sum()))


def _lists(a: Grouped, b: Grouped, near: Tensor, k: int, inside: bool) -> Tensor:
    found = Nearest(len(a), k, a.rows.vectors.device)
    search_near(a, found, b, near, inside)
    return by_slot(found.codes(), a.rows)
