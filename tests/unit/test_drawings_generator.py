"""The generator that the package brings."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ucdr_ray.drawings.generate import draw
from ucdr_ray.drawings.objects import OBJECTS
from ucdr_ray.drawings.styles import STYLES
from ucdr_ray.drawings.train_generator import SYNONYMS
from ucdr_ray.models.generator_files import DRAWINGS, PACKAGED, load_generator
from ucdr_ray.models.prompts import prompt

NOTHING = torch.zeros(0, 2, dtype=torch.int64)


def test_it_knows_every_style_and_object_by_its_word() -> None:
    made = load_generator(PACKAGED)
    kinds = [(style, name) for style in STYLES for name in OBJECTS]
    images = [Image.fromarray(draw(name, style, 64, 77, 0)) for style, name in kinds]
    pixels = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)) for image in images])
    latent = made.codec.encode(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))[0]
    drawn = torch.Generator().manual_seed(0)
    noises = [torch.randn(latent.shape, generator=drawn) for _ in range(4)]

    def loss(prompts: list[str]) -> torch.Tensor:
        ids = torch.tensor(made.tokenizer(prompts, padding="max_length")["input_ids"])
        with torch.no_grad():
            text = made.text(ids, NOTHING, torch.zeros(0, made.width))
            times = [torch.full((len(latent),), t) for t in (650, 750, 850, 950)]
            losses = [made.loss(latent, noise, t, text) for noise, t in zip(noises, times, strict=True)]
        return torch.stack(losses).mean(0)

    # Of the same noises at the same times: the fewer errors, the better the words fit.
    right = loss([prompt(style, name) for style, name in kinds])
    other_object = loss(
        [prompt(style, list(OBJECTS)[i % len(OBJECTS) - 5]) for i, (style, _) in enumerate(kinds)]
    )
    other_style = loss(
        [prompt(list(STYLES)[i // len(OBJECTS) - 1], name) for i, (_, name) in enumerate(kinds)]
    )
    assert float((right < other_object).float().mean()) > 0.75
    assert float((right < other_style).float().mean()) > 0.9
    synonym = loss([prompt(SYNONYMS[style], name) for style, name in kinds])
    assert float((synonym < other_style).float().mean()) > 0.9


def test_it_is_small_and_holds_nothing_that_could_be_run() -> None:
    files = [file for file in Path(DRAWINGS).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8e6
    assert {file.suffix for file in files} == {".json", ".safetensors"}
