"""The job behind `ucdr train`: a run from its folder to its encoder."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ucdr_ray.catalog import Catalog
from ucdr_ray.cluster import stream
from ucdr_ray.cluster.bank import BankSpec
from ucdr_ray.cluster.monitor import Monitor
from ucdr_ray.cluster.run_tracking import log_finished, outcome, tracked
from ucdr_ray.cluster.session import start_ray
from ucdr_ray.cluster.shards import Shards, shard_threads, start_shards
from ucdr_ray.cluster.training_latents import Wanted, latents_of, wanted_latents
from ucdr_ray.cluster.workers import Job, bank_shards, fit, work
from ucdr_ray.config import RunConfig
from ucdr_ray.engine import build_encoder
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.models.backbone import absolute
from ucdr_ray.progress import progress
from ucdr_ray.run import Run, begin, check_folder
from ucdr_ray.tracking import resolve_uri


def chosen_domains(config: RunConfig, catalog: Catalog) -> list[str]:
    """The domains to train on. UserError: one is missing from the catalog, or fewer than two are left."""
    names = [catalog.domain(name).name for name in config.data.domains or [d.name for d in catalog.domains]]
    if len(names) < 2:
        raise UserError(f"training needs at least 2 domains; got {', '.join(names)} of {catalog.path}")
    return names


def train(config: RunConfig, catalog: Catalog, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train a run to its end.

    Args:
        out: the run's folder, on storage that all workers share.
        resume: go on with an unfinished run; a finished one is left as it is.

    Returns:
        What the verb's `--json` holds: folders, names, and the last epoch's metrics.

    Raises:
        UserError: folder, config, catalog, backbone, checkpoint or cluster don't fit.
        JobError: training failed.
    """
    names = chosen_domains(config, catalog)
    # A backbone that can't be loaded and a store that can't be are said before anything is written or started.
    latents = wanted_latents(config, catalog, names, build_encoder(config))
    uri = resolve_uri(config.tracking.uri, Path(out).parent) if config.tracking.enabled else None
    run = check_folder(Path(out), resume)
    with run.held():
        if begin(run, config, catalog, resume, latents.fingerprint if latents else None):
            with run.going():
                _train(config, catalog, names, run, uri, latents)
    return outcome(run)


def _train(
    config: RunConfig, catalog: Catalog, names: list[str], run: Run, uri: str | None, latents: Wanted | None
) -> None:
    sizes = [catalog.domain(name).images for name in names]
    workers = config.train.workers
    with tracked(config, run, uri) as tracker:
        # Besides the workers' CPUs, two for the tasks that decode.
        start_ray(num_cpus=max(4, os.cpu_count() or 1, workers + 2))
        references = None
        if stream.keeps(catalog, names, config.data, latents.bytes if latents else 0):
            with progress("decode", "images", sum(sizes)) as meter:
                references = stream.keep(catalog, names, config.data, meter.advance)
        domains = list(zip(names, sizes, strict=True))
        backbone = absolute(config.model.backbone)
        where = run.path.resolve()
        shards = _bank(config, sizes, where)
        kept = references is not None
        generator = latents_of(latents, catalog, names, kept) if latents else None
        job = Job(
            config, Run(where), catalog.path.resolve(), domains, references, backbone, shards, generator
        )
        with Monitor(run, config.method.stages.model_dump(), tracker):
            if workers == 0:
                with _threads(config.train.threads):
                    work(job)
            else:
                fit(job)
        shutil.rmtree(run.path / "bank", ignore_errors=True)
        if not run.encoder.is_dir():
            raise JobError(f"no encoder in {run.encoder}: the workers don't share this folder")
        log_finished(run, tracker)


def _bank(config: RunConfig, sizes: list[int], run: Path) -> Shards | None:
    """The actors of the memory bank, where the config wants any."""
    count = bank_shards(config)
    if count == 0:
        return None
    threads = config.train.threads or shard_threads(count)
    spec = BankSpec(sizes, config.model.dim, count, config.bank.momentum, run, threads)
    return start_shards(spec, config.bank.timeout)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch threads of this process meanwhile; None: as many as it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
