"""Seeing disentanglement: what linear probes read off the embedding and off [z]."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ucdr_ray.evaluation.probe import probe
from ucdr_ray.evaluation.protocols import DomainVectors
from ucdr_ray.progress import progress


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
    with progress("probe", "kinds", 2) as meter:
        domain = probe(whole, domains, seed)
        meter.advance(1)
        found = Probed(domain, probe(whole[told], names, seed))
        meter.advance(1)
    return found


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
