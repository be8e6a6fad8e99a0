"""Train the CLIP of the drawings, from fixed seeds: `python -m ucdr_ray.drawings.train_clip --out FOLDER`.

It never sees a drawing of the style that is kept out, nor that style's word. The drawings are of a seed of their own.
An interrupted training goes on where it was last saved.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save
from torch import Tensor

from ucdr_ray.drawings.objects import OBJECTS
from ucdr_ray.drawings.styles import STYLES
from ucdr_ray.drawings.train_generator import SYNONYMS, drawings
from ucdr_ray.files import atomic_write
from ucdr_ray.models.clip_trainer import ClipTrainer, zero_shot
from ucdr_ray.models.prompts import prompt
from ucdr_ray.models.small_clip import SIDE, save_clip, small_clip
from ucdr_ray.progress import progress

KEPT_OUT = "sketch"
SEED, HELD_OUT = 20_002, 20_003  # of the drawings it learns from, and of those it is tried on
_BATCH = 64
_SAVED = 200  # steps between saved states
_TRIED = 20  # held-out drawings of each object and style


def captions(tokenizer: object) -> Tensor:
    """(styles, forms, objects, L) tokens of what may be said of a drawing: the style's word, another, a prompt of TKI's
    form, or the object alone."""
    forms = [
        [[form(style, name) for name in OBJECTS] for form in _FORMS] for style in STYLES if style != KEPT_OUT
    ]
    return torch.tensor(
        [[tokenizer(row, padding="max_length")["input_ids"] for row in style] for style in forms]  # type: ignore[operator]
    )


_FORMS = (
    prompt,
    lambda style, name: prompt(SYNONYMS[style], name),
    lambda style, name: f"a {style} style of {name}.",
    lambda _, name: name,
)


def train(
    out: Annotated[Path, typer.Option(help="The folder to write; its saved state lies beside it.")],
    steps: Annotated[int, typer.Option(min=1, help=f"Steps of {_BATCH} drawings.")] = 4000,
    per_class: Annotated[int, typer.Option(min=1, help="Drawings of each object in each style.")] = 300,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
) -> None:
    """Train it, and say how often it names held-out drawings of each style."""
    words = ["a", "an", "of", "style", *OBJECTS]
    words += [word for style in STYLES if style != KEPT_OUT for word in (style, SYNONYMS[style])]
    model, tokenizer = small_clip(words, seed)
    said = captions(tokenizer)
    _, forms, objects, length = said.shape
    trainer = ClipTrainer(model, said.view(-1, length), lr, steps, seed)
    state = out.with_name(f"{out.name}.state.safetensors")
    draw_ = torch.Generator().manual_seed(seed)
    if state.exists():
        saved = load_file(state)
        trainer.load(saved)
        draw_.set_state(saved["draw"])
    seen = [style for style in STYLES if style != KEPT_OUT]
    pixels, kinds = drawings(per_class, SEED, styles=seen, side=SIDE)
    with progress("train", "steps", steps - trainer.taken) as meter:
        while trainer.taken < steps:
            rows = torch.randint(len(pixels), (_BATCH,), generator=draw_).numpy()
            form = torch.randint(forms, (_BATCH,), generator=draw_)
            style, name = torch.from_numpy(kinds[rows]).unbind(1)
            # The object alone is the same caption in every style.
            style = torch.where(form == forms - 1, 0, style)
            trainer.step(torch.from_numpy(pixels[rows]), (style * forms + form) * objects + name)
            meter.advance(1)
            if trainer.taken % _SAVED == 0:
                atomic_write(state, save(trainer.state() | {"draw": draw_.get_state()}))
    save_clip(trainer.averaged(), tokenizer, out)
    state.unlink(missing_ok=True)
    names = [said[:, :, index].reshape(-1, length) for index in range(objects)]
    for style_ in STYLES:
        pixels, kinds = drawings(_TRIED, HELD_OUT, styles=[style_], side=SIDE)
        right = np.mean(zero_shot(trainer.averaged(), torch.from_numpy(pixels), names).numpy() == kinds[:, 1])
        print(f"{style_}: {100 * right:.1f} % named rightly{', never seen' if style_ == KEPT_OUT else ''}")


if __name__ == "__main__":
    typer.run(train)
