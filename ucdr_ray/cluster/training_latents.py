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
from ucdr_ray.methods.dude import start_content, styles
from ucdr_ray.models.backbone import absolute
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.prompts import Prompts


@dataclass(frozen=True)
class Wanted:
    """The latents of a training: of which generator, made how, the folder if one is given, and bytes of an image.

    `fingerprint` is the generator's, by which a run knows its teacher again.
    """

    generator: str
    fingerprint: str
    made_by: Settings
    given: str | None
    bytes: int


def wanted_latents(config: RunConfig, catalog: Catalog, names: list[str], encoder: Encoder) -> Wanted | None:
    """See that generator, styles and latents can be had, before anything is written; None: the method has no generator.

    Args:
        encoder: as training finds it.

    Raises:
        UserError: one can't; says what is allowed.
    """
    method = config.method
    if not isinstance(method, DudeConfig):
        return None
    known = [domain.name for domain in catalog.domains]  # of which data.domains may leave some out
    if strange := sorted(method.styles.keys() - set(known)):
        raise UserError(f"method.styles names {strange[0]!r}; the catalog's domains are {', '.join(known)}")
    from ucdr_ray.cluster.latents import latents_shape, settings_for
    from ucdr_ray.models.generator_files import load_generator

    generator = load_generator(method.generator)
    start_content(generator, encoder, config.train.seed)
    side = method.generator_size or generator.size
    made_by = settings_for(generator.codec, method.generator, side, config.data.resize)
    Prompts.of(generator.tokenizer, styles(method, names, generator.styles))
    if method.latents is not None:
        Latents.open(Path(method.latents), verify=False).check(catalog, made_by)
    size = 2 * math.prod(latents_shape(generator.codec, made_by))
    return Wanted(method.generator, generator.fingerprint, made_by, method.latents, size)


@dataclass(frozen=True)
class ForWorkers:
    """What workers need to know of the generator: where it lies for a process in any folder, what it is, the latents.

    Of these the folder, which workers read as they go, or references to what is kept (`stream.keep_latents`).
    """

    generator: str
    fingerprint: str
    latents: Latents
    references: list[list[Any]] | None


def latents_of(wanted: Wanted, catalog: Catalog, names: list[str], kept: bool) -> ForWorkers:
    """The latents, made now if they are not there yet.

    Args:
        kept: whether they are kept in memory, as the decoded images are, or streamed.

    Raises:
        UserError: they are stale, foreign or damaged.
        JobError: an image could not be decoded.
    """
    from ucdr_ray.cluster.latents import make_latents

    made_by = wanted.made_by
    if wanted.given is not None:
        found = Latents.open(Path(wanted.given))
        found.check(catalog, made_by)
    else:
        place = catalog.path.resolve()  # else "." has no name
        folder = place.with_name(f"{place.name}.latents")
        name = f"{made_by.codec.fingerprint[:8]}-{made_by.size}-{made_by.resize}"
        found = make_latents(wanted.generator, catalog, folder / name, made_by, wait=True)
    found = Latents(found.path.resolve(), found.manifest)  # a worker need not stand in the driver's folder
    references = stream.keep_latents(found, names) if kept else None
    return ForWorkers(absolute(wanted.generator), wanted.fingerprint, found, references)
