"""[z]: an image's content as a word's embedding, and words for styles that are learnt."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.prompts import Prompts


class ContentWord(nn.Module):
    """g: the backbone's feature to a word's embedding.

    An MLP whose output is made a unit vector, times a number that is learnt and starts at a word's usual length.

    Args:
        feature: dimension F of the feature.
        width: dimension W of a word's embedding.
        length: mean length of the words' embeddings.
    """

    def __init__(self, feature: int, width: int, length: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(feature, feature), nn.ReLU(), nn.Linear(feature, width))
        self.length = nn.Parameter(torch.tensor(length))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, F) -> (B, W) float32."""
        return self.length * F.normalize(self.mlp(feature).float(), dim=1)


class StyleWords(nn.Module):
    """Embeddings of the style words of every prompt, learnt.

    Args:
        words: (E, W) what they start from.
    """

    def __init__(self, words: Tensor) -> None:
        super().__init__()
        self.words = nn.Parameter(words.clone())


class Describing(nn.Module):
    """The encoder with its word: one pass over the pixels gives the embedding and [z]."""

    def __init__(self, encoder: Encoder, content: ContentWord, style: StyleWords | None) -> None:
        super().__init__()
        self.encoder, self.content, self.style = encoder, content, style

    def forward(
        self, pixels: Tensor, embed: bool, describe: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What a step asks for, and nothing else: workers wait for the gradients of all that is given out.

        Args:
            pixels: (B, 3, S, S) in [0, 1].

        Returns:
            If `embed` (B, D) unit rows; if `describe` (B, W) embeddings of [z] and, if learnt, (E, W) of style words.
        """
        feature = self.encoder.feature(pixels)
        style = None if self.style is None or not describe else self.style.words.clone()
        return (
            self.encoder.embed(feature) if embed else None,
            self.content(feature) if describe else None,
            style,
        )


def style_words(prompts: Prompts, embeddings: Tensor, start: str, seed: int) -> StyleWords | None:
    """What the style words are to be: None for the words themselves.

    Args:
        embeddings: (V, W) of the vocabulary.
        start: "words": themselves, frozen; "tuned": learnt from the words on; "free": learnt from nothing.
    """
    if start == "words":
        return None
    ids = torch.cat([row[place] for row, place in zip(prompts.ids, prompts.style, strict=True)])
    words = embeddings[ids].float()
    if start == "free":
        draw = torch.Generator().manual_seed(seed)
        scale = embeddings.float().norm(dim=1).mean() / words.shape[1] ** 0.5
        words = scale * torch.randn(words.shape, generator=draw)
    return StyleWords(words)
