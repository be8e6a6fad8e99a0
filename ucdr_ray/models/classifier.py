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
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) unit rows -> (B,) what becomes, by the sigmoid, the probability of the first domain."""
        return self.layers(z).squeeze(1)


class Judged(nn.Module):
    """The encoder and the classifier behind it: one pass gives the embedding and the judgement of it."""

    def __init__(self, encoder: Encoder, classifier: DomainClassifier) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, pixels: Tensor, judge: bool) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) in [0, 1] -> (B, D) unit rows; if `judge` (B,), whose gradient comes to the encoder reversed."""
        z = self.encoder(pixels)
        if not judge:
            return z, None
        with torch.autocast(z.device.type, enabled=False):  # a loss's part, in float32
            return z, self.classifier(reverse_gradient(z))
