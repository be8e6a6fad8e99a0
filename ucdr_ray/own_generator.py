"""A generator for domains that no other model knows: trained on their images, unlabelled.

The style is said by the domain's word, the content by an encoder that stays as it is: [z] = g(f(x)), g and the
generator learning together. Training DUDE afterwards begins with this g.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ucdr_ray.catalog import Catalog
from ucdr_ray.decoded import decode, spans
from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write, fingerprint
from ucdr_ray.models.content import ContentWord
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_trainer import GeneratorTrainer
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.models.small_generator import SIDE, save_generator, small_generator
from ucdr_ray.progress import progress

_SAVED = 200  # steps between saved states
_PIECE = 256  # images embedded at a time


@dataclass(frozen=True)
class Settings:
    """What decides the weights. `styles`: each domain's style, in words; `batch` images of all domains a step."""

    styles: dict[str, str]
    steps: int
    batch: int
    lr: float
    seed: int


@dataclass(frozen=True)
class Material:
    """All images: `pixels` (N, 3, 32, 32) uint8, `feature` (N, 2, F) of each as it is and flipped, `domain` (N,)."""

    pixels: Tensor
    feature: Tensor
    domain: Tensor


@torch.no_grad()
def material(catalog: Catalog, names: list[str], encoder: Encoder) -> Material:
    """Decode and embed, once. It takes 3 kB an image and 4 bytes for each of its 2 F features."""
    device = next(encoder.parameters()).device
    pixels, features, domains = [], [], []
    with progress("embed", "images", sum(catalog.domain(name).images for name in names)) as meter:
        for number, name in enumerate(names):
            for span in spans(catalog, name, _PIECE):
                large = (
                    torch.from_numpy(decode([span], encoder.size, encoder.resize)).to(device).float() / 255
                )
                both = [encoder.feature(view).float().cpu() for view in (large, large.flip(-1))]
                features.append(torch.stack(both, dim=1))
                pixels.append(torch.from_numpy(decode([span], SIDE, encoder.resize)))
                domains.append(torch.full((len(span),), number))
                meter.advance(len(span))
    return Material(torch.cat(pixels), torch.cat(features), torch.cat(domains))


def train_generator(
    catalog: Catalog, names: list[str], encoder: Encoder, settings: Settings, out: Path
) -> float | None:
    """Train and write it; an interrupted training goes on where its state, beside `out`, was last saved.

    Returns:
        The mean loss of the last hundred steps of this call; None: it took none.

    Raises:
        UserError: a style has no words or too many, or the state is of another training.
    """
    words = ["a", "an", "of", *(word for style in settings.styles.values() for word in style.lower().split())]
    made = small_generator(words, settings.seed)
    prompts = Prompts.of(made.tokenizer, [settings.styles[name] for name in names])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        content = ContentWord(encoder.backbone.dim, made.width, made.word_norm())
    device = next(encoder.parameters()).device
    trainer = GeneratorTrainer(made.to(device), settings.lr, settings.steps, content.to(device))
    draw = torch.Generator().manual_seed(settings.seed)
    state = out.with_name(f"{out.name}.state.safetensors")
    made_for = fingerprint([asdict(settings), catalog.fingerprint, names, encoder.fingerprint])
    if state.exists():
        saved = _read(state, made_for)
        trainer.load(saved)
        draw.set_state(saved["draw"])
    shown = material(catalog, names, encoder.eval())
    starts = np.searchsorted(shown.domain.numpy(), np.arange(len(names) + 1))
    losses: list[float] = []
    with progress("train", "steps", settings.steps - trainer.taken) as meter:
        while trainer.taken < settings.steps:
            rows, domain = _drawn(starts, settings.batch, draw)
            flipped = torch.rand(settings.batch, generator=draw) < 0.5
            pixels = shown.pixels[rows]
            pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
            told = content(shown.feature[rows, flipped.long()].to(device))
            ids, place, embedding = prompts.filled(domain, told)
            losses.append(trainer.step(made.codec.encode(pixels.to(device))[0], ids, place, embedding, draw))
            meter.advance(1)
            if trainer.taken % _SAVED == 0:
                tensors = trainer.state() | {"draw": draw.get_state()}
                atomic_write(state, save(tensors, {"made_for": made_for}))
    save_generator(trainer.averaged(), out, settings.styles)
    state.unlink(missing_ok=True)
    return float(np.mean(losses[-100:])) if losses else None


def _drawn(starts: np.ndarray, batch: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and their domains: every domain as often as every other, whatever its size."""
    domain = torch.randint(len(starts) - 1, (batch,), generator=draw)
    first = torch.from_numpy(starts)
    size = (first[1:] - first[:-1])[domain]
    return first[domain] + (torch.rand(batch, generator=draw) * size).long().clamp(max=size - 1), domain


def _read(state: Path, made_for: str) -> dict[str, Tensor]:
    try:
        with safe_open(state, "pt") as file:
            ours = (file.metadata() or {}).get("made_for") == made_for
            tensors = {name: file.get_tensor(name) for name in file.keys()} if ours else {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{state} is damaged ({error}); without it the training begins anew") from None
    if not ours:
        raise UserError(
            f"{state} is of a training with other settings or images; the same ones go on, and without the file it "
            "begins anew"
        )
    return tensors
