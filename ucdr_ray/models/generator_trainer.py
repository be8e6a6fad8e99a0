"""Training of a generator from scratch: predicted noise, a moving average of the weights, and that is all."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ucdr_ray.bfloat16 import fast_bfloat16
from ucdr_ray.models.content import ContentWord
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.named_tensors import below, optimizer_state, restore_optimizer

UNCONDITIONAL = 0.1  # share of pictures shown without words, for guidance
COARSE = 0.2  # share of steps at half the side: so the model knows that size too, at a quarter of the cost
_DECAY = 0.999  # of the averaged weights, per step
_WARM = 200  # steps until the learning rate is reached


class GeneratorTrainer:
    """One process; `generator` itself changes step by step, `averaged()` gives what to keep.

    Args:
        steps: of the whole training: the learning rate falls to zero along a cosine.
        content: g, which is trained along where prompts are told by images.
        coarse: share of steps at half the side.
    """

    def __init__(
        self,
        generator: Generator,
        lr: float,
        steps: int,
        content: ContentWord | None = None,
        coarse: float = COARSE,
    ) -> None:
        self.generator, self.content, self.steps, self.taken = generator, content, steps, 0
        self.coarse = coarse
        parts = [generator.unet, generator.text_encoder, *([] if content is None else [content])]
        self.parts = nn.ModuleList(parts).requires_grad_(True)
        self.average = AveragedModel(self.parts, multi_avg_fn=get_ema_multi_avg_fn(_DECAY))
        self.optimizer = torch.optim.AdamW(self.parts.parameters(), lr=lr, weight_decay=1e-2)
        self.lr = lr

    def step(
        self, latent: Tensor, ids: Tensor, place: Tensor, embedding: Tensor, draw: torch.Generator
    ) -> float:
        """Learn from pictures and their prompts; the loss.

        Args:
            latent: (B, C, s, s) float32; pixels, so that a smaller picture is their mean.
            ids, place, embedding: as of `Generator.text`.
            draw: of the side, times, noise, and which pictures are shown without words.
        """
        rows, device = len(latent), latent.device
        if torch.rand((), generator=draw) < self.coarse:
            latent = F.avg_pool2d(latent, 2)
        # Noisy times more often, by a square root: there it is decided which object a picture will show.
        last = self.generator.timesteps - 1
        t = (torch.rand(rows, generator=draw).sqrt() * (last + 1)).long().clamp(max=last).to(device)
        noise = torch.randn(latent.shape, generator=draw).to(device)
        silent = (torch.rand(rows, generator=draw) < UNCONDITIONAL).to(device)
        told = ~silent[place[:, 0]]
        ids = torch.where(silent[:, None], self.generator.empty_prompt().to(device), ids)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self._rate()
        fast = device.type == "cuda" or fast_bfloat16(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            text = self.generator.text(ids, place[told], embedding[told])
            loss = self.generator.loss(latent, noise, t, text).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.parts)
        self.taken += 1
        return float(loss.detach())

    def _rate(self) -> float:
        warm = min(1.0, (self.taken + 1) / _WARM)
        return warm * 0.5 * (1 + math.cos(math.pi * min(self.taken / self.steps, 1)))

    def state(self) -> dict[str, Tensor]:
        """Everything that decides what comes next, but for the caller's random numbers."""
        tensors = {f"parts.{name}": value for name, value in self.parts.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_state(self.optimizer) | {"taken": torch.tensor(self.taken)}
        return {name: value.contiguous() for name, value in tensors.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.parts.load_state_dict(below("parts.", tensors))
        self.average.load_state_dict(below("average.", tensors))
        restore_optimizer(self.optimizer, tensors)
        self.taken = int(tensors["taken"])

    def averaged(self) -> Generator:
        """The generator with the averaged weights, frozen; its `start` is the averaged g."""
        unet, text, *content = copy.deepcopy(self.average.module).children()
        g, start = self.generator, content[0] if content else None
        return Generator(unet, text, g.tokenizer, g.scheduler, g.codec, g.name, start)
