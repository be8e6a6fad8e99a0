"""Pictures from a generator: from noise, guided away from what no words would give."""

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from ucdr_ray.models.diffusion import Generator


@torch.no_grad()
def sample(
    generator: Generator, text: Tensor, none: Tensor, noise: Tensor, steps: int = 20, guidance: float = 3.0
) -> Tensor:
    """Pictures for texts.

    Args:
        text: (B, L, W) from `Generator.text`.
        none: (1, L, W), of the empty prompt.
        noise: (B, C, s, s) to start from; the same noise with other words gives a picture of the same layout.
        steps: calls of the U-Net, for text and for nothing at once.
        guidance: 1: none; above: what the text adds counts so many times (Ho & Salimans, arXiv:2207.12598).

    Returns:
        (B, 3, S, S) uint8.
    """
    scheduler = DPMSolverMultistepScheduler.from_config(generator.scheduler.config, trust_remote_code=False)
    scheduler.set_timesteps(steps, device=noise.device)
    both = torch.cat([none.expand_as(text), text])
    latent = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(torch.cat([latent, latent]), t)
        without, told = generator.predict(inputs, t.expand(len(inputs)), both).chunk(2)
        latent = scheduler.step(without + guidance * (told - without), t, latent).prev_sample
    return generator.codec.decode(latent)
