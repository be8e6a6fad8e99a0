"""InfoNCE with any number of positives per query (SupCon's "out" form, arXiv:2004.11362, Eq. 2)."""

import torch
from torch import Tensor


def info_nce(
    similarity: Tensor, positive: Tensor, temperature: float, ignore: Tensor | None = None
) -> Tensor:
    """Mean over the positives of -log softmax, one value per query.

    Args:
        similarity: (B, M) cosine similarities of B queries to M keys, in [-1, 1].
        positive: (B, M) bool, which keys are positives of which query.
        temperature: tau > 0.
        ignore: (B, M) bool, keys that stand neither above nor below the fraction line.

    Returns:
        (B,) losses >= 0; exactly 0, without gradient, for a query without a positive.
    """
    logits = similarity / temperature
    if ignore is not None:
        logits = logits.masked_fill(ignore, float("-inf"))
        positive = positive & ~ignore
    count = positive.sum(dim=1)
    above = torch.where(positive, logits, 0.0).sum(dim=1)
    loss = logits.logsumexp(dim=1) - above / count.clamp(min=1)
    return torch.where(count > 0, loss, 0.0)
