"""The losses inside each domain: UEM (Wang, Du, Zhu, NeurIPS 2024), sec. 3.2.

Each gives one value per image. The paper sums some of them over the batch (Eq. 6, 7) and averages others (Eq. 11): that
is left to the caller.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ucdr_ray.losses.infonce import info_nce
from ucdr_ray.neighbors.distance import euclidean


def instance_nce(z: Tensor, keys: Tensor, own: Tensor, temperature: float) -> Tensor:
    """L_INCE (Eq. 6): each image against its own row of the memory bank, among those of the batch.

    Args:
        z: (B, D) embeddings f(x_i), unit rows.
        keys: (M, D) bank rows m_j of the images of the batch, which may be a larger one than z is of; unit rows.
        own: (B,) int64, which key is the image's own.
        temperature: tau > 0.

    Returns:
        (B,) losses >= 0.
    """
    return info_nce(z @ keys.T, one_hot(own, len(keys)).bool(), temperature)


def prototype_nce(z: Tensor, prototypes: Tensor, cluster: Tensor, temperature: float) -> Tensor:
    """L_PNCE (Eq. 7): each image against the prototype of its cluster, among all of its domain's.

    Args:
        z: (B, D) embeddings f(x_i), unit rows.
        prototypes: (C, D) P, or P' where prototypes were merged, as they are: not brought to unit length.
        cluster: (B,) int64, the row of `prototypes` that the image's cluster is, or became.
        temperature: tau > 0.

    Returns:
        (B,) losses >= 0.
    """
    return info_nce(z @ prototypes.T, one_hot(cluster, len(prototypes)).bool(), temperature)


def semantic_enhanced(z: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """L_SEL (Eq. 11): the distance to each prototype, by the probability that the image belongs to it.

    Args:
        z: (B, D) embeddings f(x_i), unit rows.
        prototypes: (C, D) P' after merging.
        temperature: tau > 0.

    Returns:
        (B,) Euclidean distances >= 0, of which Eq. 11 is the mean.
    """
    # As printed, the probabilities have a gradient too.
    return ((z @ prototypes.T / temperature).softmax(1) * euclidean(z, prototypes)).sum(1)


def alpha(epoch: float, epochs: int) -> float:
    """alpha (Eq. 10): the weight of L_PNCE and L_SEL, from nearly 0 over 1/2 at half of the epochs to nearly 1.

    Args:
        epoch: e, how many epochs of the stage are done, 0..epochs.
        epochs: E, the stage's length.
    """
    return float(torch.sigmoid(torch.tensor(epoch - 0.5 * epochs, dtype=torch.float64)))
