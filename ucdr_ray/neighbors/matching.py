"""One structure of prototypes for two domains whose categories may differ.

UEM (Wang, Du, Zhu, NeurIPS 2024), Eq. 8 and 9 and what follows them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from ucdr_ray.neighbors.prototypes import Prototypes


@dataclass(frozen=True)
class Unified:
    """P_A' and P_B' of domains with C_A and C_B prototypes, of which C_A + C_B - C' pairs merged.

    Both primed sets hold the same C' prototypes, row for row: P_B' is P_A' moved by mean(M_B) - mean(M_A). So one map
    from clusters to rows serves both.
    """

    a: Tensor  # (C', D) P_A': where the prototypes are in domain A
    b: Tensor  # (C', D) P_B': where they are in domain B
    place_a: Tensor  # (C_A,) int64, the row that each of A's clusters became
    place_b: Tensor  # (C_B,) int64, the row that each of B's became
    merged: Tensor  # (C',) bool, which rows a cluster of either domain became

    def swapped(self) -> "Unified":
        """The same, seen from B."""
        return Unified(self.b, self.a, self.place_b, self.place_a, self.merged)


def unify(a: Prototypes, b: Prototypes) -> Unified:
    """Match the prototypes of two domains and merge what is close.

    B's prototypes are translated by mean(M_A) - mean(M_B) (Eq. 8) and matched one to one with A's, so that the sum of
    Euclidean distances is least. A pair merges to its mean iff its distance is below the smallest one between two
    prototypes of A, or of B (Eq. 9). In `Unified` A's clusters come first, in their order, then B's that did not
    merge, in theirs.

    One prototype has no distance to another of its domain: then the other domain's smallest one decides alone. Two
    single ones always merge: each is the mean of its domain, and translated they are in one place. Prototypes of a
    domain in one place let nothing merge.

    Seen from B the result is the same (rows in another order), as it is for prototypes in any order or rotated
    together. Only where two matchings have the same sum, as many have on a line, does the order decide which is taken.

    Cost and memory grow as C_A * C_B (matching: as the cube), not with the rows of the domains.

    Raises:
        ValueError: a value that is not finite.
    """
    dtype, device = a.vectors.dtype, a.vectors.device
    # Without its own domain's mean each prototype is where translation would put it, seen from either domain.
    (mine, centre_a), (theirs, centre_b) = _without_mean(a), _without_mean(b)
    distance = cdist(mine, theirs)
    first, second = linear_sum_assignment(distance)
    close = distance[first, second] < min(_smallest(mine), _smallest(theirs))
    first, second = first[close], second[close]

    alone = np.setdiff1d(np.arange(len(theirs)), second)
    rows = np.concatenate([mine, theirs[alone]])
    rows[first] = (mine[first] + theirs[second]) / 2
    place_b = np.empty(len(theirs), dtype=np.int64)
    place_b[second], place_b[alone] = first, len(mine) + np.arange(len(alone))
    merged = np.isin(np.arange(len(rows)), first)

    def tensor(value: np.ndarray) -> Tensor:
        return torch.from_numpy(value).to(device)

    return Unified(
        tensor(rows + centre_a).to(dtype),
        tensor(rows + centre_b).to(dtype),
        torch.arange(len(mine), device=device),
        tensor(place_b),
        tensor(merged),
    )


def _without_mean(domain: Prototypes) -> tuple[np.ndarray, np.ndarray]:
    centre = domain.mean.cpu().double().numpy()
    return domain.vectors.cpu().double().numpy() - centre, centre


def _smallest(prototypes: np.ndarray) -> float:
    """The smallest distance between two of them; infinite where there are not two."""
    return float(pdist(prototypes).min()) if len(prototypes) > 1 else np.inf
