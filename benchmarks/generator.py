"""Is the drawings' generator a text-to-image model? A classifier of real drawings looks at what it draws.

The classifier (a mini ResNet with a head for styles and one for objects) learns from drawings of a seed that the
generator never saw, at the generator's size, and is first tried on further real ones. Then pictures are generated for
every prompt "a {style} of a {object}" in turn and classified.

style_accuracy, object_accuracy: share of generated pictures whose style, and object, the classifier finds as prompted;
`real_…`: the same of real drawings, the most that can be expected. object_heeded, style_heeded: share by which the loss
of real drawings rises when the generator is told another object, or style, than they show; by times.

Example: python benchmarks/generator.py --grid grid.png --json generator.json
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ucdr_ray.drawings.objects import OBJECTS
from ucdr_ray.drawings.styles import STYLES
from ucdr_ray.drawings.train_generator import drawings
from ucdr_ray.evaluation.contact import grid, png
from ucdr_ray.files import atomic_write, write_json
from ucdr_ray.models.backbone import build_backbone
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.generator_files import PACKAGED, load_generator
from ucdr_ray.models.prompts import prompt
from ucdr_ray.models.sampling import sample

SEED = 30_001  # of the classifier's drawings
BATCH = 64
TIMES = (0, 0.02, 0.1, 0.25, 0.5, 0.7, 0.85, 1)  # edges of ranges, as shares of all


class Classifier(nn.Module):
    """(B, 3, S, S) uint8 -> logits of styles and of objects."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = build_backbone("random:resnet-mini", 0)
        self.heads = nn.ModuleList([nn.Linear(self.backbone.dim, n) for n in (len(STYLES), len(OBJECTS))])

    def forward(self, pixels: Tensor) -> list[Tensor]:
        pixels = pixels.float() / 127.5 - 1
        feature = self.backbone(F.interpolate(pixels, scale_factor=2, mode="bilinear"))
        return [head(feature) for head in self.heads]


def taught(per_class: int, epochs: int) -> Classifier:
    """A classifier taught by real drawings, flipped and shifted at random."""
    torch.manual_seed(0)
    pixels, kinds = (torch.from_numpy(array) for array in drawings(per_class, SEED))
    made = Classifier().train()
    steps = epochs * len(pixels) // BATCH
    optimizer = torch.optim.AdamW(made.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (BATCH,))
        some = F.pad(pixels[rows].float(), (2, 2, 2, 2), mode="replicate")
        x, y = torch.randint(5, (2,)).tolist()
        some = some[:, :, y : y + pixels.shape[2], x : x + pixels.shape[3]]
        some = some.flip(-1) if torch.rand(()) < 0.5 else some
        losses = [
            F.cross_entropy(logits, kind, label_smoothing=0.05)
            for logits, kind in zip(made(some), kinds[rows].T, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
    return made.eval()


@torch.no_grad()
def accuracy(classifier: Classifier, pixels: Tensor, kinds: Tensor) -> tuple[float, float]:
    """Of styles and of objects."""
    found = [
        torch.stack([logits.argmax(1) for logits in classifier(some)], dim=1) for some in pixels.split(256)
    ]
    style, name = (torch.cat(found) == kinds).double().mean(0).tolist()
    return style, name


@torch.no_grad()
def generated(
    generator: Generator, count: int, steps: int, guidance: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Pictures of the prompts in turn: (count, 3, S, S) uint8, and (count, 2) style and object."""
    kinds = torch.tensor([[s, o] for s in range(len(STYLES)) for o in range(len(OBJECTS))])
    kinds = kinds.repeat(-(-count // len(kinds)), 1)[:count]
    texts = [prompt(list(STYLES)[s], list(OBJECTS)[o]) for s, o in kinds.tolist()]
    ids = torch.tensor(generator.tokenizer(texts, padding="max_length")["input_ids"])
    nothing = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, generator.width)
    none = generator.text(generator.empty_prompt(), *nothing)
    side = int(generator.unet.config.sample_size)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, generator.codec.channels, side, side, generator=draw)
    pictures = [
        sample(generator, generator.text(some, *nothing), none, start, steps, guidance)
        for some, start in zip(ids.split(BATCH), noise.split(BATCH), strict=True)
    ]
    return torch.cat(pictures), kinds


def first_of_each(pixels: Tensor, kinds: Tensor) -> np.ndarray:
    """(styles, objects, 3, S, S): the first picture of each prompt."""
    first = [
        [int((kinds == torch.tensor([style, name])).all(1).nonzero()[0]) for name in range(len(OBJECTS))]
        for style in range(len(STYLES))
    ]
    return pixels[torch.tensor(first)].numpy()


def judged(
    model: str, count: int = 500, steps: int = 20, guidance: float = 3.0, quick: bool = False
) -> tuple[dict[str, float], np.ndarray]:
    """The figures, and a picture of each prompt (styles, objects, 3, S, S)."""
    generator = load_generator(model)
    classifier = taught(40 if quick else 200, 4 if quick else 12)
    real, kinds = (torch.from_numpy(array) for array in drawings(10, SEED, first=10_000))
    real_style, real_object = accuracy(classifier, real, kinds)
    pictures, prompted = generated(generator, min(count, 128) if quick else count, steps, guidance)
    style, name = accuracy(classifier, pictures, prompted)
    figures = {
        "style_accuracy": style,
        "object_accuracy": name,
        "real_style_accuracy": real_style,
        "real_object_accuracy": real_object,
        "pictures": len(pictures),
    }
    return figures, first_of_each(pictures, prompted)


@torch.no_grad()
def heeded(model: str) -> dict[tuple[float, float], tuple[float, float]]:
    """By times, shares of all: how much the loss of real drawings rises, told another object, and another style."""
    generator = load_generator(model)
    pixels, kinds = (torch.from_numpy(array) for array in drawings(10, SEED, first=10_000))
    latent = generator.codec.encode(pixels)[0]
    draw = torch.Generator().manual_seed(0)
    noise, share = torch.randn(latent.shape, generator=draw), torch.rand(len(latent), generator=draw)
    style, name = kinds.T
    nothing = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, generator.width)

    def loss(t: Tensor, styles: Tensor, names: Tensor) -> float:
        texts = [
            prompt(list(STYLES)[s], list(OBJECTS)[o])
            for s, o in zip(styles.tolist(), names.tolist(), strict=True)
        ]
        ids = torch.tensor(generator.tokenizer(texts, padding="max_length")["input_ids"])
        return sum(
            float(
                generator.loss(latent[rows], noise[rows], t[rows], generator.text(ids[rows], *nothing)).sum()
            )
            for rows in torch.arange(len(latent)).split(BATCH)
        )

    found = {}
    for low, high in pairwise(TIMES):
        t = ((low + (high - low) * share) * (generator.timesteps - 1)).long()
        right = loss(t, style, name)
        # Every other object, and every other style, in turn.
        other_name = (name + 1 + torch.arange(len(name)) % (len(OBJECTS) - 1)) % len(OBJECTS)
        other_style = (style + 1 + torch.arange(len(style)) % (len(STYLES) - 1)) % len(STYLES)
        found[low, high] = loss(t, style, other_name) / right - 1, loss(t, other_style, name) / right - 1
    return found


def main(
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute; a smoke figure.")] = False,
    model: Annotated[str, typer.Option(help="The generator.")] = PACKAGED,
    save_grid: Annotated[
        Path | None, typer.Option("--grid", help="Where to save a picture of each prompt.")
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures to generate.")] = 500,
    steps: Annotated[int, typer.Option(help="Calls of the U-Net for each.")] = 20,
    guidance: Annotated[float, typer.Option(help="Of what the prompt adds.")] = 3.0,
) -> None:
    figures, first = judged(model, count, steps, guidance, quick)
    if save_grid is not None:
        sheet = grid(first, list(STYLES), list(OBJECTS), title=f"{model}, by prompt")
        atomic_write(save_grid, png(sheet))
    table = Table(
        title=f"{model}: {figures['pictures']} pictures, {steps} steps, guidance {guidance:g}, as a classifier sees"
    )
    for column in ("", "style", "object"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(
        "real drawings", f"{figures['real_style_accuracy']:.1%}", f"{figures['real_object_accuracy']:.1%}"
    )
    table.add_row("generated", f"{figures['style_accuracy']:.1%}", f"{figures['object_accuracy']:.1%}")
    Console().print(table)
    figures |= print_heeded(heeded(model))
    if json is not None:
        write_json(json, figures)


def print_heeded(found: dict[tuple[float, float], tuple[float, float]]) -> dict[str, float]:
    """A table of it, and the same for programs."""
    table = Table("times", "another object", "another style", title="The loss of real drawings rises, told")
    figures: dict[str, float] = {}
    for (low, high), (name, style) in found.items():
        table.add_row(f"{low:g} to {high:g}", f"{name:.1%}", f"{style:.1%}")
        figures |= {f"object_heeded.{low:g}-{high:g}": name, f"style_heeded.{low:g}-{high:g}": style}
    Console().print(table)
    return figures


if __name__ == "__main__":
    typer.run(main)
