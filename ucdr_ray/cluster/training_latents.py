"""Latents for a training with a generator: those it is given, or its own, made beside the catalog.

Every training asks here, and what is imported inside functions takes seconds that one without a generator is spared.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ucdr_ray.catalog import Catalog
from ucdr_ray.cluster import stream
from ucdr_ray.config import RunConfig
from ucdr_ray.errors import UserError
from ucdr_ray.latents import Latents, Settings
from ucdr_ray.method_settings import DudeConfig
from ucdr_ray.methods.dude import styles
from ucdr_ray.models.backbone import absolute
from ucdr_ray.models.prompts import Prompts


def check_latents(config: RunConfig, catalog: Catalog, names: list[str]) -> None:
    """See that generator, styles and latents can be had, before anything is written.

    Raises:
        UserError: one can't; says what is allowed.
    """
    method = config.method
    if not isinstance(method, DudeConfig):
        return
    if strange := sorted(method.styles.keys() - set(names)):
        raise UserError(f"method.styles names {strange[0]!r}; the domains are {', '.join(names)}")
    from ucdr_ray.models.generator_files import load_generator

    made_by = _settings(method, config)
    generator = load_generator(method.generator)
    Prompts.of(generator.tokenizer, styles(method, names, generator.styles))
    if method.latents is not None:
        Latents.open(Path(method.latents), verify=False).check(catalog, made_by)


@dataclass(frozen=True)
class ForWorkers:
    """What workers need to know of the generator: where it lies for a process in any folder, and the latents.

    Of these the folder, which workers read as they go, or references to what is kept (`stream.keep_latents`).
    """

    generator: str
    latents: Latents
    references: list[list[Any]] | None


def bytes_of_latents(config: RunConfig) -> int:
    """Of one image; 0 for methods without a generator."""
    method = config.method
    if not isinstance(method, DudeConfig):
        return 0
    from ucdr_ray.cluster.latents import latents_shape

    return 2 * math.prod(latents_shape(method.generator, _settings(method, config)))


def latents_of(config: RunConfig, catalog: Catalog, names: list[str], kept: bool) -> ForWorkers | None:
    """The latents, made now if they are not there yet; None for methods without a generator.

    Args:
        kept: whether they are kept in memory, as the decoded images are, or streamed.

    Raises:
        UserError: they are stale, foreign or damaged.
        JobError: an image could not be decoded.
    """
    method = config.method
    if not isinstance(method, DudeConfig):
        return None
    from ucdr_ray.cluster.latents import make_latents

    made_by = _settings(method, config)
    if method.latents is not None:
        found = Latents.open(Path(method.latents))
        found.check(catalog, made_by)
    else:
        folder = catalog.path.parent / f"{catalog.path.name}.latents"
        name = f"{made_by.codec.fingerprint[:8]}-{made_by.size}-{made_by.resize}"
        found = make_latents(method.generator, catalog, folder / name, made_by)
    found = Latents(found.path.resolve(), found.manifest)  # a worker need not stand in the driver's folder
    return ForWorkers(absolute(method.generator), found, stream.keep_latents(found, names) if kept else None)


def _settings(method: DudeConfig, config: RunConfig) -> Settings:
    from ucdr_ray.cluster.latents import settings

    return settings(method.generator, method.generator_size, config.data.resize)
