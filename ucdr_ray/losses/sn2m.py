"""Switchable nearest neighbouring match: UEM (Wang, Du, Zhu, NeurIPS 2024), Eq. 15-17.

An image's nearest one in the other domain is trusted only where both have the same prototype.
"""

import torch
from torch import Tensor

from ucdr_ray.neighbors.distance import product_distance


def nearest_prototype(rows: Tensor, prototypes: Tensor) -> Tensor:
    """The prototype nearest to each row by product distance (Eq. 15).

    Args:
        rows: (N, D), not 0.
        prototypes: (C, D), not 0: a domain's own ones for Eq. 15, its primed ones for a neighbour's in Eq. 17.

    Returns:
        (N,) int64, without gradient; of equally near ones the first.
    """
    with torch.no_grad():
        return product_distance(rows, prototypes).argmin(1)


def sn2m(
    z: Tensor, bank: Tensor, prototypes: Tensor, translated: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """L_SN2M (Eq. 17) of images of A, against B.

    Args:
        z: (B, D) f(x_i) of images of A, unit rows.
        bank: (N_B, D) M_B, unit rows: f(x_j) in Eq. 16 and 17.
        prototypes: (C', D) P_B'.
        translated: (B,) int64, the row of P_B' that the image's nearest own prototype (Eq. 15) became.
        temperature: tau > 0.

    Returns:
        (B,) losses >= 0, of which Eq. 17 is the mean; and (B,) bool, whose nearest image in B has the same prototype
        and is a positive too.
    """
    similarity = z @ bank.T
    # Eq. 16. Among unit rows the product distance is least where the cosine is largest.
    nearest = similarity.detach().argmax(1)
    reliable = nearest_prototype(bank[nearest], prototypes) == translated

    prototype, instance = z @ prototypes.T / temperature, similarity / temperature
    below = torch.logaddexp(prototype.logsumexp(1), instance.logsumexp(1))
    own = prototype.gather(1, translated[:, None]).squeeze(1)
    neighbour = instance.gather(1, nearest[:, None]).squeeze(1)
    above = torch.where(reliable, torch.logaddexp(own, neighbour), own)
    return below - above, reliable
