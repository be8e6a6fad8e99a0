"""What a step of L_OD costs, and of what: the parts of it that nobody can spare, each alone, and the whole.

The parts: the encoder with g, forward and backward; the text encoder, forward and backward; the U-Net forward; the
U-Net backward to the text, from which the gradient comes to [z].

By itself it measures the architecture of Stable Diffusion v1.5 with random weights, beside a ResNet-50:

    python benchmarks/dude_cost.py --size 256
"""

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import DDPMScheduler, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from ucdr_ray.config import RunConfig, load_config
from ucdr_ray.draws import Draws
from ucdr_ray.engine import build_encoder
from ucdr_ray.files import write_json
from ucdr_ray.method_settings import DudeConfig
from ucdr_ray.methods.base import Batch, Stage
from ucdr_ray.methods.dude import Dude
from ucdr_ray.models.codec import Codec
from ucdr_ray.models.device import fastest_device
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.small_generator import small_tokenizer
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

PARTS = ("encoder", "text", "unet forward", "unet backward")


def stable_diffusion(words: list[str], dtype: torch.dtype) -> Generator:
    """The architecture of Stable Diffusion v1.5, with random weights; without its VAE, which no step runs."""
    torch.set_default_dtype(dtype)
    try:
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8
        )  # fmt: skip
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                vocab_size=49_408,
                max_position_embeddings=77,
            )
        )
    finally:
        torch.set_default_dtype(torch.float32)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    codec = Codec(None)
    return Generator(
        unet, text, small_tokenizer(words, 77), scheduler, codec, "Stable Diffusion v1.5, random"
    )


def method_of(config: RunConfig, domains: list[str], generator: Generator, device: torch.device) -> Dude:
    """The method, on a device, with an untrained encoder."""
    assert isinstance(config.method, DudeConfig)
    precision: torch.dtype = getattr(torch, config.train.precision)
    encoder = build_encoder(config).to(device)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method = config.method
    placed = generator.placed(device, method.channels_last, method.gradient_checkpointing)
    return Dude(encoder, method, domains, placed, precision)


def batch_of(
    config: RunConfig, rows: int, domains: int, latent: tuple[int, ...], device: torch.device
) -> Batch:
    """Noise in the place of images: `latent` (C, s, s)."""
    pixels = torch.rand(rows, 3, config.data.size, config.data.size, device=device)
    stored = torch.stack([torch.randn(rows, *latent), torch.full((rows, *latent), -20.0)], dim=1)[:, None]
    draws = Draws(rows, 0, torch.arange(rows))
    number = torch.arange(rows, device=device)
    return Batch(pixels, pixels, number % domains, number, rows, stored.half().to(device), draws)


@dataclass(frozen=True)
class Cost:
    """Of one step. `seconds` of each part and of the "whole"; `peak` bytes; `flops` of all products in the whole."""

    seconds: dict[str, float]
    peak: int
    flops: int
    rows: int

    @property
    def step_vs_parts(self) -> float:
        return self.seconds["whole"] / sum(self.seconds[name] for name in PARTS)


def cost(method: Dude, batch: Batch, rounds: int) -> Cost:
    """Parts and whole in turn, so that what disturbs one disturbs the others; medians over the rounds."""
    device, stage = batch.query.device, method.stages()[0]
    memory = LocalMemory([(name, 1) for name in method.domain_names], 1)  # which this stage leaves alone

    def whole() -> None:
        method.step(batch, stage, memory).total.backward()

    with FlopCounterMode(display=False) as counter:
        whole()
    found: dict[str, list[float]] = {name: [] for name in ("whole", *PARTS)}
    for _ in range(rounds):
        found["whole"].append(timed(whole, device))
        for name, seconds in parts(method, batch):
            found[name].append(seconds)
    cuda = device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return Cost(medians, peak, counter.get_total_flops(), len(batch.query))


def parts(method: Dude, batch: Batch) -> Iterator[tuple[str, float]]:
    """Seconds of each part alone, given what it needs of the others."""
    device, generator = batch.query.device, method.generator
    told: list[Tensor] = []

    def encode() -> None:
        _, content, _ = method.described(batch.query, False, True)
        assert content is not None
        content.backward(torch.ones_like(content))
        told.append(content.detach().requires_grad_(True))

    yield "encoder", timed(encode, device)
    texts: list[Tensor] = []

    def describe() -> None:
        text = generator.text(*method.prompts.filled(batch.domain, told[0]))
        text.backward(torch.ones_like(text))
        texts.append(text.detach().requires_grad_(True))

    yield "text", timed(describe, device)
    latent = method.latent(batch)
    noise, t = torch.randn_like(latent), torch.full((len(latent),), generator.timesteps // 2, device=device)
    losses: list[Tensor] = []
    yield (
        "unet forward",
        timed(lambda: losses.append(generator.loss(latent, noise, t, texts[0]).sum()), device),
    )
    yield "unet backward", timed(lambda: losses[0].backward(), device)


def last_stage(method: Dude, batch: Batch, images: int, rounds: int) -> tuple[float, float]:
    """Seconds of a step of the last stage without L_OD, and with it: in turn, medians.

    Args:
        images: in the bank of each domain.
    """
    memory = LocalMemory([(name, images) for name in method.domain_names], method.target.head_dim)
    for number in range(len(method.domain_names)):
        slots = torch.arange(images)
        memory.push(torch.full_like(slots, number), slots, torch.randn(images, method.target.head_dim))
    stage = method.stages()[-1]
    memory.rebuild(Neighbourhood(stage.k_in, stage.k_cross, method.config.mutual, method.config.centre))
    bare = replace(stage, weights={name: weight for name, weight in stage.weights.items() if name != "od"})
    full = replace(stage, weights=stage.weights | {"od": 1.0})
    found: dict[str, list[float]] = {"bare": [], "full": []}
    for _ in range(rounds):
        for name, some in (("bare", bare), ("full", full)):

            def step(stage: Stage = some) -> None:
                method.step(batch, stage, memory).total.backward()

            found[name].append(timed(step, batch.query.device))
    return statistics.median(found["bare"]), statistics.median(found["full"])


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of large products, the best of ten."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def show(console: Console, title: str, found: Cost, rate: float) -> None:
    """Milliseconds an image, and what else one wants to know of a step; `rate`: of `matrix_rate`."""
    table = Table("", "ms an image", title=title)
    for name in (*PARTS, "whole"):
        table.add_row(name, f"{1000 * found.seconds[name] / found.rows:,.2f}")
    console.print(table)
    reached = found.flops / found.seconds["whole"]
    console.print(
        f"whole over parts {found.step_vs_parts:.2f}; {found.flops / found.rows / 1e9:,.2f} GFLOP an image at "
        f"{reached / 1e9:,.0f} GFLOP/s, {reached / rate:.0%} of large products' {rate / 1e9:,.0f}; peak memory "
        f"{found.peak / 1e9:.2f} GB"
    )


def main(
    size: Annotated[int, typer.Option(help="Side in pixels of the images.")] = 256,
    rows: Annotated[int, typer.Option(help="Images of a step.")] = 1,
    rounds: Annotated[int, typer.Option(help="Steps that are measured.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    device = fastest_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = load_config(None, ["method.name=dude", "model.backbone=random:resnet50", "data.size=224"])
    generator = stable_diffusion(["photo", "sketch"], dtype)
    method = method_of(config, ["photo", "sketch"], generator, device)
    found = cost(method, batch_of(config, rows, 2, (4, size // 8, size // 8), device), rounds)
    rate = matrix_rate(dtype, device)
    show(
        Console(width=120), f"{generator.name}, {rows} image(s) of {size} px, {dtype}, {device}", found, rate
    )
    if json_file is not None:
        keys = {f"{name}.seconds_per_image": value / rows for name, value in found.seconds.items()}
        keys |= {"step_vs_parts": found.step_vs_parts, "peak_bytes": found.peak}
        write_json(json_file, keys | {"rate_share": found.flops / found.seconds["whole"] / rate})


if __name__ == "__main__":
    typer.run(main)
