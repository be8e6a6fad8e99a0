"""The service of one index as a Serve application: `serve run serve.app:build index=INDEX`, or Serve's YAML.

Two shapes that give the same answers. *Whole*: HTTP → a copy of the ingress, which holds the index; scales by copies.
*Sharded*: HTTP → ingress → one deployment for each part of the shards; each scales by itself.
"""

from typing import Any

from ray.serve import Application
from ray.serve import deployment as serve_deployment

from serve.access import ADMIN_TOKENS, TOKENS, Tokens
from serve.deployments import EncoderHost, Ingress
from serve.part import PartHost
from serve.settings import Replicas, ServiceSettings
from ucdr_ray.errors import UserError
from ucdr_ray.index.manifest import Manifest
from ucdr_ray.index.plan import held
from ucdr_ray.index.versions import current, read_manifest

_UNDER_WAY = 64  # calls that a part or the encoder takes in at a time; each carries many questions


def build(settings: ServiceSettings) -> Application:
    """The deployments that the settings ask for.

    Tokens are read here, where their file and the environment are those of whoever deploys; copies get their hashes.

    Raises:
        UserError: there is no index, or it is damaged; or tokens can't be read.
    """
    tokens = Tokens.read(settings.tokens, TOKENS)
    admin = Tokens.read(settings.admin_tokens, ADMIN_TOKENS)
    manifest = read_manifest(settings.index, current(settings.index))
    parts = parts_of(settings, manifest)
    path = settings.index.resolve()
    handles = [
        serve_deployment(PartHost)
        .options(name=f"part-{number}", **_scaled(settings.part_replicas, _UNDER_WAY))
        .bind(path, number, parts, settings.watch_s, max(1, int(settings.part_replicas.cpus)))
        for number in range(parts)
    ]
    encoder = None
    if settings.encoder.apart:
        apart = settings.encoder
        encoder = (
            serve_deployment(EncoderHost)
            .options(name="encoder", **_scaled(apart.replicas, _UNDER_WAY, apart.gpus))
            .bind(path, settings.watch_s, apart.gpus, apart.replicas.cpus)
        )
    bound = settings.model_copy(update={"index": path}).model_dump(mode="json")
    # More than it takes in, so that what is too much reaches the guard, which says 429 and when to come back.
    return (
        serve_deployment(Ingress)
        .options(name="ingress", **_scaled(settings.replicas, 8 * settings.queue))
        .bind(bound, tokens, admin, handles, encoder)
    )


def parts_of(settings: ServiceSettings, manifest: Manifest) -> int:
    """How many parts the index is served in; 0: each copy holds it whole.

    Raises:
        UserError: `parts` is given for the shape that has none.
    """
    if settings.shape == "whole" or (
        settings.shape == "auto" and settings.parts is None and held(manifest.shards) <= settings.memory
    ):
        if settings.parts is not None:
            raise UserError(f"parts={settings.parts} is for the sharded shape; allowed with whole: none")
        return 0
    most = len(manifest.shards)  # none is cut
    if settings.parts is not None:
        return settings.parts
    for parts in range(1, most):
        if all(held(group) <= settings.memory for group in manifest.parts(parts)):
            return parts
    return most


def _scaled(replicas: Replicas, under_way: int, gpus: float = 0) -> dict[str, Any]:
    return {
        "max_ongoing_requests": under_way,
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": gpus},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},  # /metrics counts requests
        "health_check_period_s": 2,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": 10,
        "autoscaling_config": {
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": replicas.ongoing,
        },
    }
