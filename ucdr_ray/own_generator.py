"""A generator for domains that no other model knows: trained on their images, unlabelled.

The style is said by the domain's word, the content by an encoder that stays as it is: [z] = g(f(x)), g and the
generator learning together. Training DUDE afterwards begins with this g.

What an encoder sees has the style in it, and a generator that reads the style there need not heed the word. So features
come without their domain's mean, and mostly of views whose colours were changed: the style that is to be drawn is then
told by the word alone.
"""

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ucdr_ray.augment import augment
from ucdr_ray.catalog import Catalog
from ucdr_ray.decoded import decode, spans
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import atomic_write, fingerprint
from ucdr_ray.models.content import ContentWord, read_by
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_trainer import COARSE, GeneratorTrainer
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.models.small_generator import SIDE, save_generator, small_generator
from ucdr_ray.named_tensors import digest_of
from ucdr_ray.progress import progress
from ucdr_ray.settings import AugmentConfig

_LEAST = 16  # pixels of a side that still show something
_SAVED, _SECONDS = 200, 60  # steps, and seconds, between saved states
_PIECE = 256  # images embedded at a time
_ASKED = 512  # images that tell how far words are heeded
_TIMES = (0, 0.5, 0.7, 0.85, 1)  # in ranges of times, of all
_CHANGED = 3  # views with changed colours, beside the image as it is
_COLOURS = AugmentConfig.model_validate(
    {"crop_min": 0.8, "flip_p": 0, "hue": 0.5, "grey_p": 0.4, "invert_p": 0.3, "edge_p": 0.3}
)


@dataclass(frozen=True)
class Settings:
    """What decides the weights.

    Attributes:
        styles: each domain's, in words.
        batch: images of all domains a step.
        side: of what it draws, in pixels.
    """

    styles: dict[str, str]
    steps: int
    batch: int
    lr: float
    seed: int
    side: int = SIDE


@dataclass(frozen=True)
class Material:
    """All images: `pixels` (N, 3, s, s) uint8, `domain` (N,), `feature` (N, 2, V, F), `centre` (F,).

    Features are of an image as it is and flipped, each seen as it is and with changed colours, and moved so that every
    domain has the same mean, `centre`: the mean of the domains' own.
    """

    pixels: Tensor
    feature: Tensor
    domain: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Heeded:
    """How much a generator goes by what it is told: share by which its loss rises.

    `content`: told [z] of another image of the same domain; `style`: told another domain's style. At 0 it does not
    listen, and cannot teach DUDE to tell the two apart.

    Attributes:
        size: side of what it draws, in pixels (`method.generator_size`).
        time_low: from where the times are, as a share of all; to `time_high`.
    """

    size: int
    time_low: float
    time_high: float
    content: float
    style: float


@torch.no_grad()
def material(catalog: Catalog, names: list[str], encoder: Encoder, seed: int, side: int = SIDE) -> Material:
    """Decode and embed, once. It takes 3 s² bytes an image, s = `side`, and 4 for each of its 8 F features."""
    device = next(encoder.parameters()).device
    pixels, features, domains, seen = [], [], [], 0
    with progress("embed", "images", sum(catalog.domain(name).images for name in names)) as meter:
        for number, name in enumerate(names):
            for span in spans(catalog, name, _PIECE):
                large = (
                    torch.from_numpy(decode([span], encoder.size, encoder.resize)).to(device).float() / 255
                )
                rows = torch.arange(len(large))
                both = []
                for seen_as in (large, large.flip(-1)):
                    views = [seen_as]
                    for _ in range(_CHANGED):
                        seen += 1
                        views.append(augment(seen_as, encoder.size, _COLOURS, len(large), rows, seed + seen))
                    both.append(torch.stack([encoder.feature(view).float().cpu() for view in views], dim=1))
                features.append(torch.stack(both, dim=1))
                pixels.append(torch.from_numpy(decode([span], side, encoder.resize)))
                domains.append(torch.full((len(span),), number))
                meter.advance(len(span))
    feature, domain = torch.cat(features), torch.cat(domains)
    means = torch.stack([feature[domain == number].mean(dim=(0, 1, 2)) for number in range(len(names))])
    centre = means.mean(0)
    feature -= (means - centre)[domain, None, None]
    return Material(torch.cat(pixels), feature, domain, centre)


def train_generator(
    catalog: Catalog, names: list[str], encoder: Encoder, settings: Settings, out: Path
) -> tuple[float | None, list[Heeded]]:
    """Train and write it; an interrupted training goes on where its state, beside `out`, was last saved.

    Returns:
        The mean loss of the last hundred steps of this call, None if it took none; and how far words are heeded.

    Raises:
        UserError: a style has no words or too many, the state is damaged or of another training, or another process
            trains at `out`.
        JobError: the loss became infinite or not a number.
    """
    lock = out.with_name(f".{out.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            try:
                if out.exists():
                    raise UserError(f"--out {out} exists; a model is never written over")
                return _train(catalog, names, encoder, settings, out)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"--out {out}: another process trains a generator there") from None


def _train(
    catalog: Catalog, names: list[str], encoder: Encoder, settings: Settings, out: Path
) -> tuple[float | None, list[Heeded]]:
    words = ["a", "an", "of", *(word for style in settings.styles.values() for word in style.lower().split())]
    made = small_generator(words, settings.seed, settings.side)
    prompts = Prompts.of(made.tokenizer, [settings.styles[name] for name in names])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        content = ContentWord(encoder.backbone.dim, made.width, made.word_norm())
    device = next(encoder.parameters()).device
    coarse = COARSE if settings.side == SIDE else 0  # of fewer pixels, half of them show nothing
    trainer = GeneratorTrainer(made.to(device), settings.lr, settings.steps, content.to(device), coarse)
    draw = torch.Generator().manual_seed(settings.seed)
    state = out.with_name(f"{out.name}.state.safetensors")
    made_for = fingerprint([asdict(settings), catalog.fingerprint, names, encoder.fingerprint])
    if state.exists():
        saved = _read(state, made_for)
        trainer.load(saved)
        draw.set_state(saved["draw"])
    shown = material(catalog, names, encoder.eval(), settings.seed, settings.side)
    content.centre.copy_(shown.centre)
    starts = np.searchsorted(shown.domain.numpy(), np.arange(len(names) + 1))
    losses: list[float] = []
    due = time.monotonic() + _SECONDS
    with progress("train", "steps", settings.steps - trainer.taken) as meter:
        while trainer.taken < settings.steps:
            rows, domain = _drawn(starts, settings.batch, draw)
            flipped = torch.rand(settings.batch, generator=draw) < 0.5
            pixels = shown.pixels[rows]
            pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
            view = torch.randint(shown.feature.shape[2], (settings.batch,), generator=draw)
            told = content(shown.feature[rows, flipped.long(), view].to(device))
            ids, place, embedding = prompts.filled(domain, told)
            losses.append(trainer.step(made.codec.encode(pixels.to(device))[0], ids, place, embedding, draw))
            if not np.isfinite(losses[-1]):
                raise JobError(f"the loss is {losses[-1]} at step {trainer.taken}: try a lower --lr")
            meter.advance(1)
            if trainer.taken % _SAVED == 0 or trainer.taken == settings.steps or time.monotonic() > due:
                tensors = trainer.state() | {"draw": draw.get_state()}
                atomic_write(state, save(tensors, {"made_for": made_for, "sha256": digest_of(tensors)}))
                due = time.monotonic() + _SECONDS
    made = trainer.averaged()
    made.styles, made.start_for = settings.styles, read_by(encoder)
    found = heeded(
        made, shown, prompts, settings.seed
    )  # before the model is there, and the same call refused
    save_generator(made, out)
    state.unlink(missing_ok=True)
    return float(np.mean(losses[-100:])) if losses else None, found


@torch.no_grad()
def heeded(generator: Generator, shown: Material, prompts: Prompts, seed: int) -> list[Heeded]:
    """Of some images of each domain at the sides it learnt, by times; the same noise whatever is told."""
    content = generator.start
    assert content is not None
    draw = torch.Generator().manual_seed(seed)
    domains = len(prompts.content)
    rows = [torch.where(shown.domain == number)[0] for number in range(domains)]
    some = [own[torch.randperm(len(own), generator=draw)[: -(-_ASKED // domains)]] for own in rows]
    picked, others = torch.cat(some), torch.cat([own.roll(1) for own in some])
    device = next(generator.parameters()).device

    def loss(latent: Tensor, noise: Tensor, t: Tensor, domain: Tensor, images: Tensor) -> float:
        total = 0.0
        for piece in torch.arange(len(picked)).split(64):
            told = content(shown.feature[images[piece], 0, 0].to(device))
            text = generator.text(*prompts.filled(domain[piece], told))
            total += float(generator.loss(latent[piece], noise[piece], t[piece], text).sum())
        return total

    own, whole = shown.domain[picked], generator.codec.encode(shown.pixels[picked].to(device))[0]
    foreign, ranges = (own + 1) % domains, list(pairwise(_TIMES))
    side = whole.shape[-1]
    halvings = [halving for halving in (1, 2) if side // halving >= _LEAST]
    found = []
    with progress("ask what is heeded", "images", len(halvings) * len(ranges) * len(picked)) as meter:
        for halving in halvings:
            latent = avg_pool2d(whole, halving)
            noise = torch.randn(latent.shape, generator=draw).to(device)
            share = torch.rand(len(picked), generator=draw)
            for low, high in ranges:
                t = ((low + (high - low) * share) * (generator.timesteps - 1)).long().to(device)
                right = loss(latent, noise, t, own, picked)
                content_rise = loss(latent, noise, t, own, others) / right - 1
                style_rise = loss(latent, noise, t, foreign, picked) / right - 1
                found.append(Heeded(side // halving, low, high, content_rise, style_rise))
                meter.advance(len(picked))
    return found


def _drawn(starts: np.ndarray, batch: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and their domains: every domain as often as every other, whatever its size."""
    domain = torch.randint(len(starts) - 1, (batch,), generator=draw)
    first = torch.from_numpy(starts)
    size = (first[1:] - first[:-1])[domain]
    return first[domain] + (torch.rand(batch, generator=draw) * size).long().clamp(max=size - 1), domain


def _read(state: Path, made_for: str) -> dict[str, Tensor]:
    try:
        with safe_open(state, "pt") as file:
            told = file.metadata() or {}
            ours = told.get("made_for") == made_for
            tensors = {name: file.get_tensor(name) for name in file.keys()} if ours else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{state} is damaged ({error}); without it the training begins anew") from None
    if ours and told.get("sha256") != digest_of(tensors):
        raise UserError(f"{state} is damaged (checksum); without it the training begins anew")
    if not ours:
        raise UserError(
            f"{state} is of a training with other settings or images; the same ones go on, and without the file it "
            "begins anew"
        )
    return tensors
