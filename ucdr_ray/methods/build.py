"""The method that a config names."""

import torch

from ucdr_ray.config import RunConfig
from ucdr_ray.method_settings import AlignmentConfig
from ucdr_ray.methods.alignment import Alignment
from ucdr_ray.methods.dude import Dude
from ucdr_ray.methods.staged import Staged
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.encoder import Encoder


def build_method(
    config: RunConfig,
    encoder: Encoder,
    domains: list[str],
    precision: torch.dtype = torch.float32,
    generator: Generator | None = None,
) -> Staged:
    """The method of `config.method`, for domains in the order of their indices.

    Args:
        generator: of the methods that have one.
    """
    method = config.method
    if isinstance(method, AlignmentConfig):
        return Alignment(encoder, method, len(domains), precision)
    if generator is None:
        raise ValueError(f"method {method.name} needs a generator")
    return Dude(encoder, method, domains, generator, precision, config.train.seed)
