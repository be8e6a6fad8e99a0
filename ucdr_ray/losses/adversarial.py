"""Domain alignment by an adversary: UEM (Wang, Du, Zhu, NeurIPS 2024), Eq. 13.

The classifier descends the loss and the extractor ascends it. With the gradient reversed between them one backward pass
does both.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


def reverse_gradient(value: Tensor, weight: float = 1.0) -> Tensor:
    """The same values, whose gradient comes back times -weight."""
    return _Reverse.apply(value, weight)


def domain_adversarial(logit: Tensor, of_a: Tensor) -> Tensor:
    """L_DAL (Eq. 13): how wrong the domain classifier is about each image.

    Args:
        logit: (N,) what the classifier says before the sigmoid: g(f(x_i)) = sigmoid(logit_i), its probability of A.
        of_a: (N,) bool, y_i: whether the image is of domain A.

    Returns:
        (N,) losses >= 0, of which Eq. 13 is the sum over the 2B images of both domains.
    """
    return binary_cross_entropy_with_logits(logit, of_a.to(logit.dtype), reduction="none")
