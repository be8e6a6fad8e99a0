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


def category_correlation(prompts: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """L_min (Eq. 3, 4): with any domain word before it, a class word still means that class.

    Args:
        prompts: (P, C, D) features t_pi of whole prompts.
        classes: (C, D) features t_i of class words alone.
        temperature: tau > 0.

    Returns:
        The mean over all prompts, a number >= 0.
    """
    logits = F.normalize(prompts, dim=2) @ F.normalize(classes, dim=1).T / temperature
    right = torch.arange(len(classes), device=classes.device).expand(len(prompts), -1)
    return F.cross_entropy(logits.flatten(0, 1), right.flatten())


def aggregation(projected: Tensor, temperature: float) -> Tensor:
    """L_agg (Eq. 6): prompts of one class come together, whatever their domain word.

    As printed: the sum over the positives is inside the logarithm, and the feature itself is in the denominator.

    Args:
        projected: (P, C, D) h(t_pi), unit rows; P of at least 2.
        temperature: tau > 0.

    Returns:
        The mean over all prompts, a number > 0. Memory grows as (P C)^2.
    """
    count, classes, _ = projected.shape
    rows = projected.flatten(0, 1)
    logits = rows @ rows.T / temperature
    label = torch.arange(classes, device=rows.device).repeat(count)
    positive = label[:, None] == label
    positive.fill_diagonal_(False)
    above = logits.masked_fill(~positive, float("-inf")).logsumexp(1)
    return (logits.logsumexp(1) - above).mean()
