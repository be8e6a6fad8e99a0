"""Train the text-to-image model of the drawings, from fixed seeds: `python -m ucdr_ray.drawings.train_generator`.

Prompts are "a {style} of a {object}"; the drawings are of a seed of their own, which no recipe and no test uses. An
interrupted training goes on where it was last saved.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor

from ucdr_ray.drawings.generate import draw
from ucdr_ray.drawings.objects import OBJECTS
from ucdr_ray.drawings.styles import STYLES
from ucdr_ray.files import atomic_write
from ucdr_ray.models.generator_files import load_generator
from ucdr_ray.models.generator_trainer import GeneratorTrainer
from ucdr_ray.models.prompts import prompt
from ucdr_ray.models.small_generator import SIDE, save_generator, small_generator
from ucdr_ray.progress import progress

SEED = 20_001  # of the drawings
SYNONYMS = {"clipart": "icon", "painting": "artwork", "photo": "photograph", "sketch": "doodle"}
_SYNONYMS = 0.1  # share of prompts with another word for the style
_DRAWN = 64  # side in pixels at which drawings are made, and then shrunk
_BATCH = 64
_PIECE = 50
_SAVED = 200  # steps between saved states


def words() -> list[str]:
    """The vocabulary."""
    return ["a", "an", "of", *STYLES, *SYNONYMS.values(), *OBJECTS]


def drawings(
    per_class: int, seed: int, first: int = 0, styles: Sequence[str] = tuple(STYLES), side: int = SIDE
) -> tuple[np.ndarray, np.ndarray]:
    """Drawings of all objects: (N, 3, side, side) uint8, and (N, 2) the numbers of style, among these, and object."""
    jobs = [
        (style, name, seed, start, min(start + _PIECE, first + per_class), side)
        for style in styles
        for name in OBJECTS
        for start in range(first, first + per_class, _PIECE)
    ]
    pixels, kinds = [], []
    with (
        ProcessPoolExecutor() as pool,
        progress("draw", "drawings", len(styles) * len(OBJECTS) * per_class) as meter,
    ):
        for job, some in zip(jobs, pool.map(_drawn, jobs), strict=True):
            pixels.append(some)
            kinds += [[styles.index(job[0]), list(OBJECTS).index(job[1])]] * len(some)
            meter.advance(len(some))
    return np.concatenate(pixels), np.array(kinds)


def _drawn(job: tuple[str, str, int, int, int, int]) -> np.ndarray:
    style, name, seed, start, stop, side = job
    images = [Image.fromarray(draw(name, style, _DRAWN, seed, index)) for index in range(start, stop)]
    small = [np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(small).transpose(0, 3, 1, 2)


def train(
    out: Annotated[Path, typer.Option(help="The folder to write; its saved state lies beside it.")],
    steps: Annotated[int, typer.Option(min=1, help=f"Steps of {_BATCH} drawings.")] = 6000,
    per_class: Annotated[int, typer.Option(min=1, help="Drawings of each object in each style.")] = 400,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    start: Annotated[
        str | None, typer.Option(help="A generator of the same words whose weights to begin with.")
    ] = None,
) -> None:
    """Train it; about an hour on two cores with bfloat16 instructions, two without."""
    made = small_generator(words(), seed) if start is None else load_generator(start)
    trainer = GeneratorTrainer(made, lr, steps)
    state = out.with_name(f"{out.name}.state.safetensors")
    draw_ = torch.Generator().manual_seed(seed)
    if state.exists():
        saved = load_file(state)
        trainer.load(saved)
        draw_.set_state(saved["draw"])
    prompts = _prompts(made.tokenizer)
    pixels, kinds = drawings(per_class, SEED)
    nothing = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, made.width)
    with progress("train", "steps", steps - trainer.taken) as meter:
        while trainer.taken < steps:
            rows = torch.randint(len(pixels), (_BATCH,), generator=draw_).numpy()
            other = (torch.rand(_BATCH, generator=draw_) < _SYNONYMS).long()
            style, name = torch.from_numpy(kinds[rows]).unbind(1)
            latent = made.codec.encode(torch.from_numpy(pixels[rows]))[0]
            trainer.step(latent, prompts[other, style, name], *nothing, draw_)
            meter.advance(1)
            if trainer.taken % _SAVED == 0:
                atomic_write(state, save(trainer.state() | {"draw": draw_.get_state()}))
    save_generator(trainer.averaged(), out)
    state.unlink(missing_ok=True)


def _prompts(tokenizer: object) -> Tensor:
    """(2, styles, objects, L): the tokens of all prompts, with the styles' names and with other words for them."""
    texts = [
        [[prompt(word, name) for name in OBJECTS] for word in styles]
        for styles in (list(STYLES), [SYNONYMS[style] for style in STYLES])
    ]
    rows = [[tokenizer(row, padding="max_length")["input_ids"] for row in kind] for kind in texts]  # type: ignore[operator]
    return torch.tensor(rows)


if __name__ == "__main__":
    typer.run(train)
