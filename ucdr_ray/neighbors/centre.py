"""Taking a domain's mean from its keys, with the same numbers wherever the keys lie."""

import torch
from torch import Tensor

_FRACTION = 2.0**30  # a fixed point: sums of whole numbers are the same in any order


def exact_sum(keys: Tensor) -> Tensor:
    """Sum of unit rows (N, D) as int64 (D,), in steps of 2^-30: the same however the rows are shared out."""
    blocks = keys.split(65_536)
    total = torch.zeros(keys.shape[1], dtype=torch.int64, device=keys.device)
    for block in blocks:
        total += (block * _FRACTION).round().to(torch.int64).sum(0)
    return total


def mean(total: Tensor, rows: int) -> Tensor:
    """(D,) float32 mean of so many unit rows from their `exact_sum`s, added up over the shards."""
    return (total.double() / (_FRACTION * rows)).float()


def centred(keys: Tensor, total: Tensor | None = None, rows: int | None = None) -> Tensor:
    """Rows without the mean of their domain, of unit length.

    A domain of a single row is its own mean, of which nothing would be left: it stays.

    Args:
        keys: (n, D) unit rows.
        total, rows: the `exact_sum` and the number of all the domain's rows, where `keys` are only some of them.
    """
    total, rows = exact_sum(keys) if total is None else total, rows or len(keys)
    if rows <= 1:
        return keys
    return torch.nn.functional.normalize(keys - mean(total, rows), dim=1)
