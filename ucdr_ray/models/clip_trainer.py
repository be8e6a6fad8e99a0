"""Contrastive training of a small CLIP (Radford et al., ICML 2021, sec. 2.3) on pictures and their captions."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPModel

from ucdr_ray.augment import augment
from ucdr_ray.bfloat16 import fast_bfloat16
from ucdr_ray.named_tensors import below, optimizer_state, restore_optimizer
from ucdr_ray.settings import AugmentConfig

_DECAY = 0.998  # of the averaged weights, per step
_WARM = 100  # steps until the learning rate is reached
_SHARPEST = math.log(100)  # of the logarithm of 1 / temperature, as in the paper
_VIEWS = AugmentConfig.model_validate({"crop_min": 0.6, "blur_p": 0.1})


class ClipTrainer:
    """One process; `averaged()` gives what to keep.

    Args:
        model: is changed step by step.
        captions: (V, L) tokens of all captions that there are, padded: pictures name theirs by its row.
        steps: of the whole training: the learning rate falls to zero along a cosine.
    """

    def __init__(self, model: CLIPModel, captions: Tensor, lr: float, steps: int, seed: int) -> None:
        self.model, self.captions, self.lr, self.steps, self.seed = model, captions, lr, steps, seed
        self.taken = 0
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(_DECAY))
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)

    def step(self, pixels: Tensor, caption: Tensor) -> float:
        """Learn from pictures; the loss.

        Pictures of one batch that have the same caption are all right answers to it, and equally so.

        Args:
            pixels: (B, 3, S, S) uint8.
            caption: (B,) int64, rows of `captions`.
        """
        rows, side = len(pixels), int(self.model.config.vision_config.image_size)
        views = augment(pixels, side, _VIEWS, rows, torch.arange(rows), self.seed * 1_000_003 + self.taken)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self._rate()
        said, which = caption.unique(return_inverse=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16(pixels.device)):
            image, text = self._image(views), self._text(self.captions[said])
        image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
        logits = self.model.logit_scale.clamp(max=_SHARPEST).exp() * image @ text.T
        right = F.one_hot(which, len(said)).to(logits.dtype)
        loss = F.cross_entropy(logits, which) + F.cross_entropy(logits.T, (right / right.sum(0)).T)
        self.optimizer.zero_grad(set_to_none=True)
        (loss / 2).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.taken += 1
        return float(loss.detach() / 2)

    def _image(self, views: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=views * 2 - 1).pooler_output
        return self.model.visual_projection(pooled)

    def _text(self, ids: Tensor) -> Tensor:
        return self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)

    def _rate(self) -> float:
        warm = min(1.0, (self.taken + 1) / _WARM)
        return warm * 0.5 * (1 + math.cos(math.pi * min(self.taken / self.steps, 1)))

    def state(self) -> dict[str, Tensor]:
        """Everything that decides what comes next, but for the caller's random numbers."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_state(self.optimizer) | {"taken": torch.tensor(self.taken)}
        return {name: value.contiguous() for name, value in tensors.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(below("model.", tensors))
        self.average.load_state_dict(below("average.", tensors))
        restore_optimizer(self.optimizer, tensors)
        self.taken = int(tensors["taken"])

    def averaged(self) -> CLIPModel:
        """The model with the averaged weights, in evaluation mode."""
        model: CLIPModel = self.average.module.eval()
        return model


@torch.no_grad()
def zero_shot(model: CLIPModel, pixels: Tensor, captions: Sequence[Tensor]) -> Tensor:
    """(N,) int64: which class each picture is likest to, of those with these captions.

    Args:
        pixels: (N, 3, S, S) uint8.
        captions: for each class (P, L) tokens of its prompts, whose unit features are averaged.
    """
    model.eval()
    prototypes = []
    for ids in captions:
        text = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        prototypes.append(F.normalize(F.normalize(text, dim=1).mean(0), dim=0))
    found = []
    for some in pixels.split(256):
        pooled = model.vision_model(pixel_values=some.float() / 127.5 - 1).pooler_output
        found.append(
            (F.normalize(model.visual_projection(pooled), dim=1) @ torch.stack(prototypes).T).argmax(1)
        )
    return torch.cat(found)
