"""Distances between each of some rows and each of others, whose gradients are finite even where rows are equal."""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def euclidean(u: Tensor, v: Tensor) -> Tensor:
    """(N, M) Euclidean distances >= 0 of rows (N, D) and (M, D); the gradient between equal rows is 0."""
    # From differences: by inner products, equal rows would be about 3e-4 apart, and the gradient noise.
    return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")


def product_distance(u: Tensor, v: Tensor) -> Tensor:
    """(1 - cos(u, v)) * ||u - v|| of UEM (Wang, Du, Zhu, NeurIPS 2024), Eq. 15 and 16.

    Among rows of unit length it grows as their cosine falls: the nearest one is that of the largest cosine.

    Args:
        u, v: (N, D) and (M, D) rows of any length but 0.

    Returns:
        (N, M) distances >= 0; 0 for equal rows, and for those of one direction.
    """
    # 1 - cos is half the squared distance of the directions, which is accurate for near ones and never negative.
    return euclidean(normalize(u, dim=1), normalize(v, dim=1)).square() / 2 * euclidean(u, v)
