"""Keeping a domain's structure while domains are aligned: UEM (Wang, Du, Zhu, NeurIPS 2024), Eq. 14."""

from torch import Tensor
from torch.nn.functional import normalize

from ucdr_ray.neighbors.distance import euclidean


def structure_preserving(now: Tensor, before: Tensor) -> Tensor:
    """L_SPR (Eq. 14): squared changes of the cosine and of the distance of every pair of images of a batch.

    Args:
        now: (B, D) f(x_i) of images of one domain.
        before: (B, D') f'(x_i), the same images by the extractor as it was when alignment began.

    Returns:
        (B,) for each image the mean over its pairs, itself among them, >= 0; Eq. 14 is their mean.
    """
    cosine = _cosines(now) - _cosines(before)
    distance = euclidean(now, now) - euclidean(before, before)
    return (cosine.square() + distance.square()).mean(1)


def _cosines(rows: Tensor) -> Tensor:
    direction = normalize(rows, dim=1)
    return direction @ direction.T
