"""The method that a config names."""

import torch

from ucdr_ray.config import RunConfig
from ucdr_ray.method_settings import AlignmentConfig, UemConfig
from ucdr_ray.methods.alignment import Alignment
from ucdr_ray.methods.base import Method
from ucdr_ray.methods.dude import Dude
from ucdr_ray.methods.uem import Uem
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.world import World


def build_method(
    config: RunConfig,
    encoder: Encoder,
    domains: list[str],
    precision: torch.dtype = torch.float32,
    generator: Generator | None = None,
    world: World | None = None,
) -> Method:
    """The method of `config.method`, for domains in the order of their indices.

    Args:
        generator: of the methods that have one.
        world: the workers; None: this process alone.
    """
    method = config.image_method
    if isinstance(method, AlignmentConfig):
        return Alignment(encoder, method, len(domains), precision)
    if isinstance(method, UemConfig):
        return Uem(encoder, method, domains, precision, config.train.seed, world or World())
    if generator is None:
        raise ValueError(f"method {method.name} needs a generator")
    return Dude(encoder, method, domains, generator, precision, config.train.seed)
