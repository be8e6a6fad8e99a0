"""DUDE (arXiv:2509.04193): a frozen text-to-image model teaches the encoder to drop style; then staged alignment.

Sec. 3.2, object disentanglement. An image of domain d is described as "a {style of d} of a [z]", where [z] is made by
the encoder. Told this, the generator is to predict the noise that was put on the image. The style it knows from the
word, so what lowers the loss is to say in [z] what the word does not: the object.

Sec. 3.3, staged alignment, stands in `staged.py`.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ucdr_ray.errors import UserError
from ucdr_ray.method_settings import DudeConfig
from ucdr_ray.methods.base import Batch, Losses, Stage, weighted
from ucdr_ray.methods.staged import Staged
from ucdr_ray.models.content import Content, ContentWord, Describing, read_by, save_content, style_words
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.neighbors.memory import Memory


class Dude(Staged):
    """L_OD and the contrastive stages; what is trained, `online`, is the encoder and g, the maker of [z]."""

    def __init__(
        self,
        encoder: Encoder,
        config: DudeConfig,
        domains: list[str],
        generator: Generator,
        precision: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__(encoder, config, len(domains), precision)
        self.config: DudeConfig = config
        self.generator = generator
        self.domain_names = domains
        self.prompts = Prompts.of(generator.tokenizer, styles(config, domains, generator.styles))
        content = start_content(generator, encoder, seed)
        style = style_words(self.prompts, generator.vocabulary(), config.style_tokens, seed)
        self.online = Describing(encoder, content, style).to(next(encoder.parameters()).device)

    def stages(self) -> list[Stage]:
        """L_OD; then + L_aug + L_in; then + L_cross."""
        c = self.config
        later = c.weight_od if c.keep_od else 0.0
        od, kept = {"od": c.weight_od}, {"od": later} if later > 0 else {}
        inside = {"in": c.weight_in} if c.weight_in > 0 else {}
        k_in = c.k_in if inside else None
        alone = kept | {"aug": c.weight_aug} | inside
        stages = [
            Stage("warm_up", c.stages.warm_up, od),
            Stage("in_domain", c.stages.in_domain, alone, k_in),
            Stage("cross_domain", c.stages.cross_domain, alone | {"cross": c.weight_cross}, k_in, c.k_cross),
        ]
        return [stage for stage in stages if stage.epochs > 0]

    def step(self, batch: Batch, stage: Stage, memory: Memory) -> Losses:
        """Losses of one batch: L_OD by the query view's [z], and the stage's contrastive terms."""
        describe = "od" in stage.weights and (not stage.contrasts or batch.step % self.config.od_every == 0)
        if stage.contrasts:
            self.push(batch, memory)
        query, content, style = self.described(batch.query, stage.contrasts, describe)
        terms = {} if query is None else self.contrast(query, batch, stage, memory)
        if content is not None:
            terms["od"] = self.disentangle(batch, content, style).sum() / batch.global_rows
        return weighted(terms, stage)

    def disentangle(self, batch: Batch, content: Tensor, style: Tensor | None) -> Tensor:
        """L_OD (Eq. 3) of each image: (B,) squared error of the noise that the generator predicts, told "[z]".

        Args:
            content: (B, W) the images' [z]; style: (E, W) learnt style words, all domains' one after the other.
        """
        c, generator = self.config, self.generator
        latent = self.latent(batch)
        low, high = (round(edge * generator.timesteps) for edge in (c.time_low, c.time_high))
        t = batch.draws.uniform(low, high).long().clamp(max=generator.timesteps - 1).to(latent.device)
        noise = batch.draws.normal(*latent.shape[1:]).to(latent.device)
        ids, place, embedding = self.prompts.filled(batch.domain, content, style)
        return generator.loss(latent, noise, t, generator.text(ids, place, embedding))

    def latent(self, batch: Batch) -> Tensor:
        """(B, C, s, s): of each image's stored latents, as it is or flipped, a sample."""
        assert batch.latents is not None
        stored = batch.latents
        which = (batch.draws.uniform(0, 1) * stored.shape[1]).long().to(stored.device)
        mean, log_variance = stored[torch.arange(len(stored), device=stored.device), which].float().unbind(1)
        noise = batch.draws.normal(*mean.shape[1:]).to(mean.device)
        return mean + (log_variance / 2).exp() * noise

    def described(
        self, pixels: Tensor, embed: bool, describe: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Embeddings, [z] and learnt style words: what `Describing` gives."""
        return self._encode(self.online, pixels, embed, describe)

    def save_content(self, folder: Path, generator: str, generator_sha256: str | None) -> None:
        """Write what makes [z], for `models.content.load_content`.

        Args:
            generator: where it lies; its fingerprint may be told.
        """
        inner = self._describing
        words = dict(
            zip(self.domain_names, styles(self.config, self.domain_names, self.generator.styles), strict=True)
        )
        save_content(folder, Content(inner.content, inner.style, words, generator, generator_sha256))

    def extras(self) -> dict[str, nn.Module]:
        inner = self._describing
        return {"content": inner.content} | ({} if inner.style is None else {"style": inner.style})

    @property
    def encoder(self) -> Encoder:
        return self._describing.encoder

    @property
    def _describing(self) -> Describing:
        inner = getattr(self.online, "module", self.online)
        assert isinstance(inner, Describing)
        return inner


def start_content(generator: Generator, encoder: Encoder, seed: int) -> ContentWord:
    """g as it was trained along with the generator, or a fresh one.

    Args:
        encoder: as training finds it.

    Raises:
        UserError: the generator's g was trained to read the features of another backbone.
    """
    feature = encoder.backbone.dim
    if isinstance(generator.start, ContentWord):
        if generator.start.feature != feature or generator.start_for not in (None, read_by(encoder)):
            raise UserError(
                f"generator {generator.name} was trained along with another backbone ({generator.start.feature} "
                f"features) than {encoder.name} ({feature}) at {encoder.size} px; allowed: the same model.backbone, "
                "train.seed where its weights are random, and data.size"
            )
        return copy.deepcopy(generator.start).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ContentWord(feature, generator.width, generator.word_norm())


def styles(config: DudeConfig, domains: list[str], told: Mapping[str, str]) -> list[str]:
    """The words for each domain's style: one for all, or those given, or those `told` to the generator, or the name."""
    if config.fixed_style is not None:
        return [config.fixed_style] * len(domains)
    words = {**told, **config.styles}
    return [words.get(name, name.replace("_", " ")) for name in domains]
