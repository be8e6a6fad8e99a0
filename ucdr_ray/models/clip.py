"""The text side of CLIP: prompts in, features in the space shared with images; words may be vectors of one's own.

Models are CLIP's, in the format of `transformers`: a folder, or a hub name whose files are on this machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint
from ucdr_ray.models.weights import load_model, place
from ucdr_ray.named_tensors import digest

_AT_ONCE = 256  # prompts without gradient


@dataclass(frozen=True)
class Prompt:
    """Tokens (L,) without the special ones at both ends; `place`: which of them a vector stands in for, or none."""

    tokens: list[int]
    place: int | None = None


class ClipText(nn.Module):
    """Frozen: gradients pass through it to the vectors that stand in for words.

    Args:
        model: `CLIPTextModelWithProjection`.
        tokenizer: CLIP's own kind.
        name: for messages.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer, self.name = tokenizer, name
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "ClipText":
        """Stays in evaluation mode."""
        return super().train(False)

    @classmethod
    def load(cls, source: str, name: str | None = None) -> "ClipText":
        """Read a whole CLIP's text side, or one that `save` wrote.

        Args:
            name: for messages; the folder's without it.

        Raises:
            UserError: there is no such model on this machine, or it is of another kind or damaged.
        """
        source = place(source)
        try:
            tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
            model = load_model(source, kind=CLIPTextModelWithProjection, local_files_only=True)
        except UserError:
            raise
        except Exception as error:  # transformers raises many kinds for a bad folder
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"CLIP {source}: its text side can't be loaded: {reason}") from None
        return cls(model, tokenizer, name or Path(source).name)

    def save(self, folder: Path) -> None:
        """Write what `load` reads, in full precision."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def width(self) -> int:
        """Dimension W of a word's vector."""
        return int(self._words.weight.shape[1])

    @property
    def dim(self) -> int:
        """Dimension D of a feature."""
        return int(self.model.config.projection_dim)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides a prompt's feature."""
        return fingerprint([digest(self.model), self.tokenizer.get_vocab()])

    @property
    def _words(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def prompt(self, *parts: str | None) -> Prompt:
        """A prompt of pieces of text, at most one of them None: the place of a vector.

        Raises:
            UserError: a piece means nothing to the tokenizer, or the whole is too long for the model.
        """
        tokens: list[int] = []
        place = None
        for part in parts:
            if part is None:
                place = len(tokens)
                tokens.append(int(self.tokenizer.eos_token_id) - 1)  # any token: its vector is replaced
                continue
            some = list(self.tokenizer(part, add_special_tokens=False)["input_ids"])
            if not some:
                raise UserError(
                    f"{part!r} is no word to CLIP {self.name}; allowed: text with letters or digits"
                )
            tokens += some
        longest = int(self.model.config.max_position_embeddings) - 2
        if len(tokens) > longest:
            text = " ".join("[…]" if part is None else part for part in parts)
            raise UserError(f"{text!r}: {len(tokens)} tokens; allowed: up to {longest} by CLIP {self.name}")
        return Prompt(tokens, place)

    def features(self, prompts: Sequence[Prompt], vectors: Tensor | None = None) -> Tensor:
        """Features of prompts.

        Args:
            prompts: N of them; all with a place, or none.
            vectors: (N, W) what stands at the place of each, positions being added as to a word's; with gradient.

        Returns:
            (N, D), of any length.
        """
        device = self._words.weight.device
        ids = self._padded(prompts).to(device)
        if vectors is None:
            return self.model(input_ids=ids).text_embeds
        rows = torch.arange(len(prompts), device=device)
        place = torch.tensor([1 + (prompt.place or 0) for prompt in prompts], device=device)

        def replace(_: nn.Module, __: Any, words: Tensor) -> Tensor:
            return words.index_put((rows, place), vectors.to(words.dtype))

        handle = self._words.register_forward_hook(replace)
        try:
            return self.model(input_ids=ids).text_embeds
        finally:
            handle.remove()

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 unit rows of plain texts. Raises UserError as `prompt` does."""
        prompts = [self.prompt(text) for text in texts]
        found = [self.features(prompts[i : i + _AT_ONCE]) for i in range(0, len(prompts), _AT_ONCE)]
        return nn.functional.normalize(torch.cat(found).float(), dim=1)

    def _padded(self, prompts: Sequence[Prompt]) -> Tensor:
        """(N, L) tokens, as long as the longest; attention is causal: what comes after an end changes nothing."""
        first, last = int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id)
        longest = max(len(prompt.tokens) for prompt in prompts) + 2
        rows = [[first, *prompt.tokens] for prompt in prompts]
        return torch.tensor([row + [last] * (longest - len(row)) for row in rows])
