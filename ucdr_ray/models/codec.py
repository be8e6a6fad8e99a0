"""Between images and the latents that a generator's U-Net sees."""

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn


class Codec(nn.Module):
    """A frozen VAE with its scale; without one, latents are pixels in [-1, 1]."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae: Any = vae
        self.requires_grad_(False)
        self.eval()

    @property
    def stride(self) -> int:
        """Pixels of an image along a side of a latent."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return 3 if self.vae is None else int(self.vae.config.latent_channels)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of latents, at the U-Net's scale.

        Args:
            images: (B, 3, S, S) uint8.

        Returns:
            Twice (B, C, s, s) float32; without a VAE the pixels themselves, of a variance that is next to nothing.
        """
        pixels = images.float() / 127.5 - 1
        if self.vae is None:
            return pixels, torch.full_like(pixels, -30.0)
        found = self.vae.encode(pixels.to(next(self.vae.parameters()).dtype)).latent_dist
        mean = (found.mean.float() - self._shift) * self._scale
        return mean, found.logvar.float() + 2 * math.log(self._scale)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, s, s) latents at the U-Net's scale -> (B, 3, S, S) uint8."""
        if self.vae is not None:
            whole = latent / self._scale + self._shift
            latent = self.vae.decode(whole.to(next(self.vae.parameters()).dtype)).sample
        return ((latent.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    @property
    def _scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def _shift(self) -> float:
        return float(self.vae.config.shift_factor or 0)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides `encode`; models that share a VAE share latents."""
        if self.vae is None:
            return hashlib.sha256(b"pixels").hexdigest()
        digest = hashlib.sha256(repr([self._scale, self._shift]).encode())
        for name, value in sorted(self.vae.state_dict().items()):
            if not name.startswith(("decoder.", "post_quant_conv.")):
                digest.update(f"{name} {tuple(value.shape)}".encode())
                digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
