"""What can be read off a run's [z], before training and after."""

from collections.abc import Sequence

from ucdr_ray.catalog import Catalog
from ucdr_ray.config import RunConfig
from ucdr_ray.engine import build_encoder
from ucdr_ray.evaluation.disentangle import Probed, probed
from ucdr_ray.evaluation.features import embed_domains
from ucdr_ray.methods.dude import start_content
from ucdr_ray.models.content import content_encoder, load_content
from ucdr_ray.models.device import fastest_device
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_files import load_teacher
from ucdr_ray.run import Run


def probed_on(encoder: Encoder, catalog: Catalog, names: Sequence[str], seed: int = 0) -> Probed:
    """Linear probes of an encoder's vectors of all images of some domains."""
    return probed(embed_domains(encoder.to(fastest_device()), catalog, names), seed)


def content_probes(
    run: Run, config: RunConfig, encoder: Encoder, catalog: Catalog, names: Sequence[str], seed: int = 0
) -> tuple[Probed, Probed]:
    """Linear probes of the direction of the images' [z]: as training found encoder and g, and as it left them.

    Args:
        encoder: the run's.

    Raises:
        UserError: the content word or its generator are missing or damaged.
    """
    made = load_content(run.content)
    start = build_encoder(config).eval()
    first = start_content(load_teacher(made), start, config.train.seed)
    before, after = content_encoder(start, first), content_encoder(encoder, made.word)
    return probed_on(before, catalog, names, seed), probed_on(after, catalog, names, seed)
