"""The page of what [z] says: images, and what the generator draws of them under every style."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.catalog import Catalog
from ucdr_ray.evaluation.contact import grid, png
from ucdr_ray.images import to_array
from ucdr_ray.models.content import load_content
from ucdr_ray.models.device import fastest_device
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_files import load_teacher
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.models.sampling import sample
from ucdr_ray.progress import progress

_SIDE = 96  # pixels of a picture
_ROWS = 16  # drawn at a time


def content_page(
    encoder: Encoder, content: Path, catalog: Catalog, images: int = 3, guidance: float = 3.0, seed: int = 0
) -> bytes:
    """A PNG: a row for each image, first the image, then what is drawn when told "a STYLE of a [z]".

    Args:
        content: folder of a run's content word.
        images: of each domain, drawn at random by `seed`, as is the noise.
        guidance: how much more than nothing the words count.

    Raises:
        UserError: content word, generator or catalog are missing or damaged.
    """
    device = fastest_device()
    made = load_content(content)
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator, encoder = load_teacher(made).to(device, precision), encoder.to(device)
    # Domains may share a style; those that are learnt are each domain's own.
    columns = list(made.styles.values() if made.style else dict.fromkeys(made.styles.values()))
    prompts = Prompts.of(generator.tokenizer, columns)
    shown, pixels, headings = [], [], []
    for domain in made.styles:
        count = catalog.domain(domain).images
        slots = np.random.default_rng(seed).choice(count, min(images, count), replace=False)
        table = catalog.take(domain, slots.tolist(), ["image"])
        for data in table["image"].to_pylist():
            pixels.append(to_array(data, encoder.size, encoder.resize, max_pixels=None))
            shown.append(to_array(data, generator.size, encoder.resize, max_pixels=None))
            headings.append(domain)
    with torch.no_grad():
        feature = encoder.feature(torch.from_numpy(np.stack(pixels)).to(device).float() / 255)
        told = made.word.to(device)(feature)
    learnt = None if made.style is None else made.style.words.detach().to(device)
    drawn = rendered(generator, prompts, told, learnt, guidance=guidance, seed=seed)
    whole = np.concatenate([np.stack(shown)[:, None], drawn], axis=1)
    title = "An image, and what its [z] gives under every style"
    return png(grid(whole, headings, ["image", *columns], _SIDE, title))


@torch.no_grad()
def rendered(
    generator: Generator,
    prompts: Prompts,
    content: Tensor,
    style: Tensor | None,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
) -> np.ndarray:
    """Each [z] under every style, all from the same noise: (R, K, 3, S, S) uint8.

    Args:
        prompts: of the K styles.
        content: (R, W) the images' [z].
        style: as of `Prompts.filled`.
    """
    none = generator.text(
        generator.empty_prompt().to(content.device),
        torch.zeros(0, 2, dtype=torch.int64, device=content.device),
        content[:0],
    )
    side = int(generator.unet.config.sample_size)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(content), generator.codec.channels, side, side, generator=draw).to(content.device)
    columns = []
    with progress("draw", "pictures", len(content) * len(prompts.ids)) as meter:
        for index in range(len(prompts.ids)):
            pieces = []
            for some in torch.arange(len(content)).split(_ROWS):
                text = generator.text(*prompts.filled(torch.full((len(some),), index), content[some], style))
                pieces.append(sample(generator, text, none, noise[some], steps, guidance).cpu().numpy())
                meter.advance(len(some))
            columns.append(np.concatenate(pieces))
    return np.stack(columns, axis=1)
