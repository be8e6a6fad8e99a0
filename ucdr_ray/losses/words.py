"""The losses on text features: TKI (Yan et al.), sec. 4.1 and 4.2. Features of any length: what counts are cosines."""

import torch
from torch import Tensor
from torch.nn import functional as F


def domain_diversity(domains: Tensor, alpha: float, mu: float) -> Tensor:
    """L_max (Eq. 1, 2): every two domain words are to mean different things.

    Args:
        domains: (P, D) features t_p of the domain part of the prompt.
        alpha: steepness > 0.
        mu: the cosine below which two domains are different enough.

    Returns:
        A number >= 0; 0 where there is one domain only.
    """
    count = len(domains)
    if count == 1:
        return domains.new_zeros(())
    unit = F.normalize(domains, dim=1)
    pushed = F.softplus(alpha * (unit @ unit.T - mu))
    others = ~torch.eye(count, dtype=torch.bool, device=domains.device)
    return pushed[others].mean()


def category_correlation(prompts: Tensor, classes: Tensor, which: Tensor, temperature: float) -> Tensor:
    """L_min (Eq. 3, 4): with any domain word before it, a class word still means that class.

    Args:
        prompts: (P, n, D) features t_pi of whole prompts, of n of the classes.
        classes: (C, D) features t_j of class words alone.
        which: (n,) int64, the classes of the prompts.
        temperature: tau > 0.

    Returns:
        The mean over all prompts, a number >= 0.
    """
    logits = F.normalize(prompts, dim=2) @ F.normalize(classes, dim=1).T / temperature
    right = which.to(logits.device).expand(len(prompts), -1)
    return F.cross_entropy(logits.flatten(0, 1), right.flatten())


def aggregation(projected: Tensor, temperature: float) -> Tensor:
    """L_agg (Eq. 6): prompts of one class come together, whatever their domain word.

    As printed: the sum over the positives is inside the logarithm, and the feature itself is in the denominator.

    Args:
        projected: (P, n, D) h(t_pi) of n classes, unit rows. With one domain, where Eq. 6 has nothing above its
            fraction line, a feature is its own positive.
        temperature: tau > 0.

    Returns:
        The mean over all prompts, a number >= 0. Memory grows as (P n)^2.
    """
    count, classes, _ = projected.shape
    rows = projected.flatten(0, 1)
    logits = rows @ rows.T / temperature
    label = torch.arange(classes, device=rows.device).repeat(count)
    positive = label[:, None] == label
    if count > 1:
        positive.fill_diagonal_(False)
    above = logits.masked_fill(~positive, float("-inf")).logsumexp(1)
    return (logits.logsumexp(1) - above).mean()
