"""The domain classifier of adversarial alignment, and the encoder that it judges."""

import torch
from torch import Tensor, nn

from ucdr_ray.losses.adversarial import reverse_gradient
from ucdr_ray.models.encoder import Encoder


class DomainClassifier(nn.Module):
    """g of UEM (Wang, Du, Zhu, NeurIPS 2024), Eq. 13: two linear layers.

    Args:
        dim: dimension D of an embedding.
        hidden: width between the layers.
        pairs: of domains to be told apart, one in the paper.
    """

    def __init__(self, dim: int, hidden: int, pairs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, pairs))

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) unit rows -> (B, pairs) what becomes, by the sigmoid, the probability of a pair's first domain."""
        return self.layers(z)


class EncoderWithClassifier(nn.Module):
    """The encoder and the classifier behind it: one pass gives the embedding and the judgement of it."""

    def __init__(self, encoder: Encoder, classifier: DomainClassifier) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, pixels: Tensor, judge: bool) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) in [0, 1] -> (B, D) unit rows; if `judge` (B, pairs), whose gradient reaches it reversed."""
        z = self.encoder(pixels)
        if not judge:
            return z, None
        with torch.autocast(z.device.type, enabled=False):  # a loss's part, in float32
            return z, self.classifier(reverse_gradient(z))
