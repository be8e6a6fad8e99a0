"""[z]: an image's content as a word's embedding, and words for styles that are learnt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint, sha256_file, staged_folder, write_json
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.named_tensors import below, digest
from ucdr_ray.records import Record, Sha256, read_record

_WIDEST = 65_536  # numbers of a feature or an embedding
CONTENT = "content"  # folder of g, in that of a generator which it was trained along with


class ContentWord(nn.Module):
    """g: the backbone's feature to a word's embedding.

    An MLP whose output is made a unit vector, times a number that is learnt and starts at a word's usual length. It
    reads features minus `centre` (F,): zero, or the mean over all domains, where g was trained on features without
    their domains' means.

    Args:
        feature: dimension F of the feature.
        width: dimension W of a word's embedding.
        length: mean length of the words' embeddings.
    """

    centre: Tensor

    def __init__(self, feature: int, width: int, length: float) -> None:
        super().__init__()
        self.feature, self.width = feature, width
        self.mlp = nn.Sequential(nn.Linear(feature, feature), nn.ReLU(), nn.Linear(feature, width))
        self.length = nn.Parameter(torch.tensor(length))
        self.register_buffer("centre", torch.zeros(feature))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, F) -> (B, W) float32."""
        return self.length * F.normalize(self.mlp(feature - self.centre).float(), dim=1)


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


def content_encoder(encoder: Encoder, content: ContentWord) -> Encoder:
    """An encoder whose vectors are the directions of the images' [z]; it shares the weights of both."""
    shape = (content.feature, content.width)
    made = Encoder(encoder.backbone, encoder.size, encoder.resize, shape, "head", f"[z] of {encoder.name}")
    made.head = content
    return made.train(encoder.training)


def read_by(encoder: Encoder) -> str:
    """SHA-256 of what decides the features that g reads: the backbone's weights, and the size of the images."""
    return fingerprint([digest(encoder.backbone), encoder.size])


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
        scale = float(embeddings.float().norm(dim=1).mean()) / words.shape[1] ** 0.5
        words = scale * torch.randn(words.shape, generator=draw)  # on the CPU: the same on every device
    return StyleWords(words)


class _Description(Record):
    format: Literal["ucdr-content"] = "ucdr-content"
    version: Literal[1] = 1
    feature: Annotated[int, Field(ge=1, le=_WIDEST)]
    width: Annotated[int, Field(ge=1, le=_WIDEST)]
    styles: Annotated[dict[str, str], Field(min_length=1)]
    style_words: Annotated[int, Field(ge=0, le=_WIDEST)]
    generator: str
    generator_sha256: Sha256 | None = None
    backbone_sha256: Sha256 | None = None
    sha256: Sha256
    checksum: Sha256 | None = None  # of all other fields; the first models had none

    def digest(self) -> str:
        return fingerprint(self.model_dump(exclude={"checksum"}))


@dataclass(frozen=True)
class Content:
    """What makes [z], and what it was made with.

    Attributes:
        word: g. style: learnt style words, if they were.
        styles: each domain's style, in words.
        generator: where the generator is; "." for the folder around this one.
        generator_sha256: `Generator.fingerprint`; None: not known, as of the folder around this one.
        backbone_sha256: `read_by` of the encoder, where that lies elsewhere; None: not known.
    """

    word: ContentWord
    style: StyleWords | None
    styles: dict[str, str]
    generator: str
    generator_sha256: str | None = None
    backbone_sha256: str | None = None


def save_content(folder: Path, made: Content) -> None:
    """Write what makes [z]; the folder appears whole or not at all."""
    content, style = made.word, made.style
    with staged_folder(folder) as staging:
        state = {f"content.{name}": value for name, value in content.state_dict().items()}
        state |= (
            {} if style is None else {f"style.{name}": value for name, value in style.state_dict().items()}
        )
        file = staging / "content.safetensors"
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, file)
        described = _Description(
            feature=content.feature,
            width=content.width,
            styles=made.styles,
            style_words=0 if style is None else len(style.words),
            generator=made.generator,
            generator_sha256=made.generator_sha256,
            backbone_sha256=made.backbone_sha256,
            sha256=sha256_file(file),
        )
        write_json(staging / "content.json", described.model_dump() | {"checksum": described.digest()})


def load_content(folder: Path) -> Content:
    """Read what `save_content` wrote.

    Raises:
        UserError: missing, damaged (checksum) or foreign.
    """
    told = read_record(_Description, folder / "content.json", "content word")
    if told.checksum not in (None, told.digest()):
        raise UserError(f"damaged content word: {folder / 'content.json'} does not match its checksum")
    file = folder / "content.safetensors"
    if not file.is_file() or sha256_file(file) != told.sha256:
        raise UserError(f"{file} is missing or damaged: its checksum differs from content.json")
    content = ContentWord(told.feature, told.width, 1.0)
    style = StyleWords(torch.zeros(told.style_words, told.width)) if told.style_words else None
    try:
        state = load_file(file)
        content.load_state_dict(below("content.", state))
        if style is not None:
            style.load_state_dict(below("style.", state))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} doesn't hold a whole content word: {str(error).splitlines()[0]}") from None
    made_with = told.generator, told.generator_sha256, told.backbone_sha256
    return Content(content.eval(), style, told.styles, *made_with)
