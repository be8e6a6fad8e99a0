"""Seeing disentanglement: one [z] under every style, and what can be read off the embedding."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ucdr_ray.evaluation.probe import probe
from ucdr_ray.evaluation.protocols import DomainVectors
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.prompts import Prompts
from ucdr_ray.models.sampling import sample


@dataclass(frozen=True)
class Probed:
    """Accuracy of linear probes: of the domain (lower is better), and of the object; None: too few to tell."""

    domain: float | None
    object: float | None


def probed(vectors: Mapping[str, DomainVectors], seed: int = 0) -> Probed:
    """What a linear classifier reads off the embeddings of all domains together."""
    whole = np.concatenate([found.vectors for found in vectors.values()])
    domains = [name for name, found in vectors.items() for _ in found.labels]
    labels = [label for found in vectors.values() for label in found.labels]
    told = [place for place, label in enumerate(labels) if label is not None]
    names = [str(labels[place]) for place in told]
    return Probed(probe(whole, domains, seed), probe(whole[told], names, seed))


@dataclass(frozen=True)
class Disentangled:
    """What is shown of a run with a generator: the page (PNG); probes before training and after."""

    page: bytes
    embedding: tuple[Probed, Probed]
    content: tuple[Probed, Probed]  # of [z]

    def figures(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """For programs: {"embedding": {"before": {"domain", "object"}, "after": …}, "content": …}."""
        return {
            what: {"before": vars(before), "after": vars(after)}
            for what, (before, after) in (("embedding", self.embedding), ("content", self.content))
        }


@torch.no_grad()
def rendered(
    generator: Generator,
    prompts: Prompts,
    content: Tensor,
    style: Tensor | None,
    steps: int = 20,
    guidance: float = 3.0,
    seed: int = 0,
) -> np.ndarray:
    """Each [z] under every style, all from the same noise: (R, K, 3, S, S) uint8.

    Args:
        prompts: of the K styles.
        content: (R, W) the images' [z].
        style: as of `Prompts.filled`.
    """
    none = generator.text(
        generator.empty_prompt().to(content.device),
        torch.zeros(0, 2, dtype=torch.int64, device=content.device),
        content[:0],
    )
    side = int(generator.unet.config.sample_size)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(content), generator.codec.channels, side, side, generator=draw).to(content.device)
    columns = []
    for index in range(len(prompts.ids)):
        domain = torch.full((len(content),), index)
        text = generator.text(*prompts.filled(domain, content, style))
        columns.append(sample(generator, text, none, noise, steps, guidance).cpu().numpy())
    return np.stack(columns, axis=1)
