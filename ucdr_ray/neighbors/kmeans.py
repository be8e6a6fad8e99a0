"""k-means by FAISS, with the same numbers on any number of threads."""

import faiss
import numpy as np

_ATTEMPTS = 5  # after one, a group of seven is missed one time in three


def k_means(
    rows: np.ndarray,
    clusters: int,
    rounds: int,
    seed: int,
    spherical: bool = False,
    spread: bool = False,
    start: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Cluster all of the rows (N, D) float32; N >= clusters >= 1.

    Args:
        spherical: by inner product, with centroids of unit length; else by Euclidean distance.
        spread: begin with rows far from each other (k-means++) and take the best of some attempts, so that hardly any
            well-separated group is missed; else begin once with any rows, which takes no time.
        start: (clusters, D) to begin with instead.

    Returns:
        (clusters, D) centroids, and the inertia: the sum of squared distances to the nearest one (or of products).
    """
    first = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS if spread else faiss.ClusteringInitMethod_RANDOM
    means = faiss.Kmeans(
        rows.shape[1],
        clusters,
        niter=rounds,
        spherical=spherical,
        seed=seed,
        init_method=first,
        nredo=_ATTEMPTS if spread and start is None else 1,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # by default FAISS leaves all but 256 for each centroid out
    )
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)  # so that the sums are the same wherever they are made
        inertia = means.train(rows, init_centroids=start)
    finally:
        faiss.omp_set_num_threads(before)
    return means.centroids, float(inertia)
