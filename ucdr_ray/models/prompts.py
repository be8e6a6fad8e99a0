"""Prompts "a {style} of a [z]": words that a frozen text encoder knows, and a place that an image's content takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ucdr_ray.errors import UserError

_VOWELS = "aeiou"


def prompt(style: str, content: str) -> str:
    """The prompt of a style; its article is right, "a" stays before every content, as it does before [z]."""
    article = "an" if style[:1].lower() in _VOWELS else "a"
    return f"{article} {style} of a {content}"


@dataclass(frozen=True)
class Prompts:
    """One prompt for each domain.

    `ids` (K, L) int64: tokens, padded; `content` (K,): where [z] stands; `style`: where each style's words stand.
    """

    ids: Tensor
    content: Tensor
    style: list[Tensor]

    @classmethod
    def of(cls, tokenizer: Any, styles: Sequence[str]) -> "Prompts":
        """Prompts of the styles' words, [z] in them.

        Raises:
            UserError: a style without words, or with so many that the prompt is too long for the text encoder.
        """
        length = int(tokenizer.model_max_length)
        rows, content, places = [], [], []
        for style in styles:
            words = _tokens(tokenizer, style)
            if not words:
                raise UserError(
                    f"style {style!r}: no words in it; allowed: any words, such as 'pencil sketch'"
                )
            before, *_ = prompt(style, "").split(" ")
            first = [tokenizer.bos_token_id, *_tokens(tokenizer, before)]
            middle = _tokens(tokenizer, "of a")
            # Any token stands for [z]: its embedding is replaced.
            row = [*first, *words, *middle, tokenizer.eos_token_id, tokenizer.eos_token_id]
            if len(row) > length:
                raise UserError(
                    f"style {style!r}: {len(row)} tokens with its prompt; allowed: up to {length}"
                )
            content.append(len(row) - 2)
            places.append(torch.arange(len(first), len(first) + len(words)))
            rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
        return cls(torch.tensor(rows), torch.tensor(content), places)

    def filled(
        self, domain: Tensor, content: Tensor, style: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts of some images: tokens, and what is replaced in them, as `Generator.text` wants them.

        Args:
            domain: (B,) int64, of which style each is to be.
            content: (B, W) the images' [z].
            style: (E, W) embeddings of the style words of all prompts, one after the other; None: the words' own.

        Returns:
            (B, L) tokens; (R, 2) row and position of what is replaced; (R, W) by what.
        """
        device, rows, own = content.device, torch.arange(len(domain)), domain.cpu()
        place, embedding = [torch.stack([rows, self.content[own]], dim=1)], [content]
        if style is not None:
            words = style.split([len(positions) for positions in self.style])
            for index, (positions, some) in enumerate(zip(self.style, words, strict=True)):
                mine = rows[own == index]
                place.append(torch.cartesian_prod(mine, positions).view(-1, 2))
                embedding.append(some.repeat(len(mine), 1))
        return self.ids[own].to(device), torch.cat(place).to(device), torch.cat(embedding)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
