"""What `ucdr search` looks for: image files, and words where the index's encoder reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ucdr_ray.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ucdr_ray.index.search import Index

_BATCH = 64  # images at a time through the encoder


@dataclass(frozen=True)
class Query:
    """One question: ``said``, an image's path or a text; ``content``, the image's bytes, None of a text."""

    said: str
    content: bytes | None

    @property
    def key(self) -> str:
        """What it is, for programs."""
        return "text" if self.content is None else "image"


def read(images: Sequence[Path], texts: Sequence[str]) -> list[Query]:
    """The images first. UserError: there is no question at all, or an image can't be read."""
    if not images and not texts:
        raise UserError("nothing to search for: give images, or --text WORDS")
    return [*(Query(str(image), _bytes(image)) for image in images), *(Query(text, None) for text in texts)]


def _bytes(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the query {image}: {error.strerror}") from None


def encode(index: "Index", queries: Sequence[Query]) -> "np.ndarray":
    """Vectors float32 (Q, dim) of the queries, by the index's own encoder.

    Raises:
        UserError: an image that can't be used, a text that means nothing, or any where the encoder reads none.
    """
    import numpy as np
    import torch

    from ucdr_ray.images import Reject, to_array
    from ucdr_ray.models.device import fastest_device

    device = fastest_device()
    encoder = index.encoder.to(device)
    pixels = []
    for query in queries:
        if query.content is None:
            continue
        try:
            pixels.append(torch.from_numpy(to_array(query.content, encoder.size, encoder.resize)))
        except Reject as reject:
            raise UserError(f"cannot use the query {query.said}: {reject.reason}") from None
    parts = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
    vectors = [encoder.encode(torch.stack(part).to(device)).cpu().numpy() for part in parts]
    if texts := [query.said for query in queries if query.content is None]:
        vectors.append(encoder.encode_text(texts).cpu().numpy())
    return np.concatenate(vectors)
