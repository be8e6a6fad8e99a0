"""A frozen text-to-image model as a loss: how well it predicts an image's noise, told style by word, content by [z].

Models are of the Stable Diffusion format of `diffusers`: a folder or hub name with `unet`, `text_encoder`, `tokenizer`,
`scheduler` and `vae`; without a `vae` the U-Net works on pixels in [-1, 1].
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ucdr_ray.files import fingerprint
from ucdr_ray.models.codec import Codec
from ucdr_ray.named_tensors import digest

# Side of a latent up to which a CPU attends by plain products: backward its flash kernel takes twice as long.
_SMALL = 32
_CPU_BACKENDS = {True: [SDPBackend.MATH], False: [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]}


class Generator(nn.Module):
    """Frozen: no parameter of it ever gets a gradient; they pass through it to what stands in for [z].

    Args:
        start: g (`content.ContentWord`) as it was trained along with the model, if it was; g is to start from it.
        start_for: what that g read: `content.read_by` of the encoder; None: not known.
        styles: the words that the model was told then for each domain's style.
    """

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        codec: Codec,
        name: str,
        start: nn.Module | None = None,
        styles: Mapping[str, str] | None = None,
        start_for: str | None = None,
    ) -> None:
        super().__init__()
        self.start, self.styles, self.start_for = start, styles or {}, start_for
        self.codec = codec
        self.unet: Any = unet
        self.text_encoder: Any = text_encoder
        self.tokenizer, self.scheduler, self.name = tokenizer, scheduler, name
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Generator":
        """Stays in evaluation mode: dropout would be noise in the loss."""
        return super().train(False)

    def placed(self, device: torch.device, channels_last: bool | None, recompute: bool) -> "Generator":
        """Moved to where the loss is computed.

        Args:
            channels_last: the U-Net's numbers in that order; None: on a GPU.
            recompute: compute activations again in the backward pass, instead of keeping them.
        """
        self.to(device)
        last = device.type == "cuda" if channels_last is None else channels_last
        self.unet.to(memory_format=torch.channels_last if last else torch.contiguous_format)
        if recompute:
            self.unet.enable_gradient_checkpointing()
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides `text` and `predict`, as it was loaded: of half precision it is another."""
        return fingerprint([digest(self.unet), digest(self.text_encoder)])

    @property
    def timesteps(self) -> int:
        """T: a time t is from 0 (nearly clean) to T - 1 (nearly noise)."""
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def size(self) -> int:
        """Side in pixels of the images that the model was made for."""
        return int(self.unet.config.sample_size) * self.codec.stride

    @property
    def width(self) -> int:
        """Dimension W of a word's embedding."""
        return int(self._words.weight.shape[1])

    @property
    def _words(self) -> nn.Embedding:
        return self.text_encoder.get_input_embeddings()

    def word_norm(self) -> float:
        """Mean length of a word's embedding."""
        return float(self._words.weight.float().norm(dim=1).mean())

    def vocabulary(self) -> Tensor:
        """(V, W): the embeddings of all words."""
        return self._words.weight

    def text(self, ids: Tensor, place: Tensor, embedding: Tensor) -> Tensor:
        """The text encoder's output for prompts in which some embeddings are replaced.

        Args:
            ids: (B, L) int64.
            place: (E, 2) int64, row and position of each replaced one.
            embedding: (E, W), with gradient; positions are added to it as to a word's.

        Returns:
            (B, L, W') for the U-Net's cross-attention.
        """

        def replace(_: nn.Module, __: Any, words: Tensor) -> Tensor:
            return words.index_put((place[:, 0], place[:, 1]), embedding.to(words.dtype))

        handle = self._words.register_forward_hook(replace)
        try:
            return self.text_encoder(input_ids=ids).last_hidden_state
        finally:
            handle.remove()

    def empty_prompt(self) -> Tensor:
        """(1, L) int64: the prompt without words."""
        pad = self.tokenizer.pad_token_id
        ids = [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id]
        return torch.tensor([ids + [pad] * (int(self.tokenizer.model_max_length) - 2)])

    def predict(self, noised: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The U-Net's output, float32."""
        dtype = next(self.unet.parameters()).dtype
        noised = noised.to(dtype)
        # What is computed again in the backward pass is so outside of here, and must be computed in the same way.
        choose = noised.device.type == "cpu" and not self.unet.is_gradient_checkpointing
        with sdpa_kernel(_CPU_BACKENDS[noised.shape[-1] <= _SMALL]) if choose else nullcontext():
            return self.unet(noised, t, encoder_hidden_states=text.to(dtype)).sample.float()

    def loss(self, latent: Tensor, noise: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """(B,) mean squared error of the predicted noise, or velocity where the scheduler says so.

        Args:
            latent, noise: (B, C, s, s) float32.
            t: (B,) int64 in 0..T-1.
            text: (B, L, W').
        """
        noised = self.scheduler.add_noise(latent, noise, t)
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latent, noise, t) if velocity else noise
        return (self.predict(noised, t, text) - target).square().mean(dim=(1, 2, 3))
