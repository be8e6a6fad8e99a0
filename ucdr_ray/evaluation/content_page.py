"""The page of what [z] says: images, and what the generator draws of them under every style."""

from pathlib import Path

import numpy as np
import torch

from ucdr_ray.catalog import Catalog
from ucdr_ray.evaluation.contact import grid, png
from ucdr_ray.evaluation.disentangle import rendered
from ucdr_ray.images import to_array
from ucdr_ray.models.content import load_content
from ucdr_ray.models.device import fastest_device
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_files import load_generator
from ucdr_ray.models.prompts import Prompts

_SIDE = 96  # pixels of a picture


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
    word, style, words, source = load_content(content)
    generator, encoder = load_generator(source).to(device), encoder.to(device)
    prompts = Prompts.of(generator.tokenizer, list(words.values()))
    shown, pixels, headings = [], [], []
    for domain in words:
        count = catalog.domain(domain).images
        slots = np.random.default_rng(seed).choice(count, min(images, count), replace=False)
        table = catalog.take(domain, slots.tolist(), ["image"])
        for data in table["image"].to_pylist():
            pixels.append(to_array(data, encoder.size, encoder.resize, max_pixels=None))
            shown.append(to_array(data, generator.size, encoder.resize, max_pixels=None))
            headings.append(domain)
    with torch.no_grad():
        feature = encoder.feature(torch.from_numpy(np.stack(pixels)).to(device).float() / 255)
        told = word.to(device)(feature)
    learnt = None if style is None else style.words.detach().to(device)
    drawn = rendered(generator, prompts, told, learnt, guidance=guidance, seed=seed)
    whole = np.concatenate([np.stack(shown)[:, None], drawn], axis=1)
    title = "An image, and what its [z] gives under every style"
    return png(grid(whole, headings, ["image", *words.values()], _SIDE, title))
