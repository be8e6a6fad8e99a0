"""The workers of a training run: Ray Train processes around the pure engine."""

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from ucdr_ray.bfloat16 import fast_bfloat16
from ucdr_ray.catalog import Catalog
from ucdr_ray.cluster import stream
from ucdr_ray.cluster.memory import ShardedMemory
from ucdr_ray.cluster.shards import Shards, default_shards
from ucdr_ray.cluster.training_latents import ForWorkers
from ucdr_ray.config import RunConfig
from ucdr_ray.engine import Metrics, Trainer, local_memory, pick_device
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.feed import Feed, ResidentFeed
from ucdr_ray.files import read_json, write_json
from ucdr_ray.method_settings import DudeConfig
from ucdr_ray.methods.dude import Dude
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.neighbors.memory import Memory
from ucdr_ray.run import Run
from ucdr_ray.streaming import Columns, StreamFeed, Window
from ucdr_ray.world import World


@dataclass(frozen=True)
class Job:
    """All that a worker must know. `references` hold the decoded images; None: it streams them itself."""

    config: RunConfig
    run: Run
    catalog: Path
    domains: list[tuple[str, int]]
    references: list[Any] | None
    backbone_at: str | None = None  # absolute: a worker need not stand in the driver's folder
    shards: Shards | None = None  # of the memory bank; None: in the worker
    generator: ForWorkers | None = None  # for a method that has one


def work(job: Job, rank: int = 0, workers: int = 1) -> None:
    """One worker's part, from the newest checkpoint on; worker 0 keeps the run's folder.

    Raises:
        UserError: the checkpoint is damaged or of another config.
        JobError: the loss is not finite, or an image can't be decoded.
    """
    run, config = job.run, job.config
    feed = make_feed(job, rank, workers)
    trainer = Trainer(
        config, job.domains, feed, job.backbone_at, partial(make_memory, job.shards), frozen_generator(job)
    )
    trainer.resume(run.checkpoints)
    if rank == 0:
        run.cut_metrics(trainer.epoch)
        run.add_start(trainer.epoch)

    def on_epoch(metrics: Metrics, _: Trainer) -> None:
        if rank == 0:
            run.add_metrics(metrics)

    encoder = trainer.run(run.checkpoints, on_epoch)
    if rank == 0:
        encoder.name += f", trained ({config.method.name})"
        encoder.save(run.encoder)
        if isinstance(trainer.method, Dude):
            assert job.generator is not None
            trainer.method.save_content(run.content, job.generator.generator, job.generator.fingerprint)


def frozen_generator(job: Job) -> Generator | None:
    """The generator that the method wants, on the worker's device."""
    config, method = job.config, job.config.method
    if not isinstance(method, DudeConfig) or job.generator is None:
        return None
    from ucdr_ray.models.generator_files import load_generator  # seconds, for this method only

    device = pick_device(config.train)
    automatic = torch.bfloat16 if device.type == "cuda" or fast_bfloat16(device) else torch.float32
    named = method.generator_precision
    dtype: torch.dtype = automatic if named == "auto" else getattr(torch, named)
    generator = load_generator(job.generator.generator, dtype)
    return generator.placed(device, method.channels_last, method.gradient_checkpointing)


def make_memory(
    shards: Shards | None,
    config: RunConfig,
    domains: Sequence[tuple[str, int]],
    world: World,
    device: torch.device,
) -> Memory:
    """The memory bank as the job has it: in the worker, or sharded."""
    if shards is None:
        return local_memory(config, domains, world, device)
    names, sizes = zip(*domains, strict=True)
    copy = sum(sizes) * config.model.dim * 4 <= config.bank.copy_limit_gb * 1e9
    method = config.image_method
    return ShardedMemory(shards, names, world, method.max_negatives, config.train.seed, device, copy)


def bank_shards(config: RunConfig) -> int:
    """Shards of the memory bank; 0: each worker holds all rows. To be asked when Ray is running."""
    if config.bank.shards is not None:
        return config.bank.shards
    return default_shards(config.train.workers) if config.train.workers > 1 else 0


def make_feed(job: Job, rank: int, workers: int) -> Feed:
    """One worker's images: the kept ones, or a stream of its own."""
    data, train = job.config.data, job.config.train
    names, sizes = zip(*job.domains, strict=True)
    told = job.generator
    if job.references is not None:
        latents = stream.kept_latents(told.references) if told and told.references else None
        return ResidentFeed(
            stream.kept(job.references, sizes), train.batch, train.seed, rank, workers, latents
        )

    def read(windows: list[Window], latents: bool) -> Iterator[Columns]:
        return stream.stream(windows, data, workers, told.latents if told and latents else None)

    return StreamFeed(
        Catalog.open(job.catalog, verify=False),
        names,
        read,
        stream.stored_side(data),
        train.batch,
        train.seed,
        rank,
        workers,
        latents=told is not None,
    )


def fit(job: Job, work: Callable[[Job, int, int], None] = work) -> None:
    """Train with `train.workers` processes; a dead one is replaced, and all go on from the newest checkpoint.

    Args:
        work: what each does, given its rank and their number.

    Raises:
        UserError: the cluster is too small, or as `work`.
        JobError: more workers died than `train.max_failures` allows, or as `work`.
    """
    # How often the controller looks after its workers; its own 2 s would pace start, end and failures.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    from ray.train import FailureConfig, ScalingConfig, TrainingFailedError
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    train = job.config.train
    gpu = _use_gpus(job)
    environment = {"OMP_WAIT_POLICY": "passive"}
    if not gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    # A name seen before would make Ray take up that run's state; where to resume, our own checkpoints say.
    storage, name = job.run.path.resolve() / ".ray", f"{job.run.path.name}-{uuid.uuid4().hex[:12]}"
    failure = storage / name / "failure.json"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "work": work, "failure": failure},
        scaling_config=ScalingConfig(num_workers=train.workers, use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RayRunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=train.max_failures),
            worker_runtime_env={"env_vars": environment},
        ),
    )
    try:
        _interruptibly(trainer.fit)
    except TrainingFailedError as error:
        if not failure.exists():
            raise JobError(
                f"training failed: {_reason(error)}; --resume goes on from the last checkpoint"
            ) from error
    finally:
        said = read_json(failure, "failure") if failure.exists() else None
        shutil.rmtree(storage, ignore_errors=True)
    if said is not None:
        raise (UserError if said["kind"] == "UserError" else JobError)(said["message"])


def _worker(settings: dict[str, Any]) -> None:
    import ray.train

    failure: Path = settings["failure"]
    if failure.exists():
        return  # Ray tries again, but this kind of failure would only come again
    context = ray.train.get_context()
    # Of this node's cores, which another node may have more or fewer of.
    share = (os.cpu_count() or 1) // context.get_local_world_size()
    torch.set_num_threads(settings["job"].config.train.threads or max(1, share))
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())
    try:
        settings["work"](settings["job"], context.get_world_rank(), context.get_world_size())
    except (UserError, JobError) as error:
        kind = "UserError" if isinstance(error, UserError) else "JobError"
        write_json(failure, {"kind": kind, "message": str(getattr(error, "cause", None) or error)})
        raise


def _use_gpus(job: Job) -> bool:
    """Whether the workers get a GPU each. UserError: the cluster can't hold that many workers."""
    train, here = job.config.train, ray.cluster_resources()
    cpus, gpus = int(here.get("CPU", 0)), int(here.get("GPU", 0))
    if train.workers > cpus:
        raise UserError(
            f"train.workers={train.workers}: the cluster has {cpus} CPUs; allowed: one worker for each"
        )
    if train.device == "cpu" or (train.device == "auto" and gpus == 0):
        if job.references is None and train.workers == cpus:  # they would wait for their images for ever
            raise UserError(
                f"train.workers={train.workers} with streamed images: the cluster has {cpus} CPUs, and decoding needs "
                f"one; allowed: up to {cpus - 1} workers, or data.residency=keep"
            )
        return False
    if train.workers > gpus:
        raise UserError(
            f"train.workers={train.workers} with train.device={train.device}: the cluster has {gpus} GPUs; "
            "allowed: one worker for each, or train.device=cpu"
        )
    return True


def _interruptibly(action: Any) -> None:
    """Run `action` aside: in the main thread, Ray Train would take Ctrl-C to itself and end in its own way."""
    ended: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException:
        ray.shutdown()  # ends the workers, which otherwise would go on writing
        raise
    if ended:
        raise ended[0]


def _reason(error: Exception) -> str:
    """The first thing that went wrong, in a line."""
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    lines = [line for line in str(first).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(first).__name__
