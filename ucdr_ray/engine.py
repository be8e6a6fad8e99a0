"""The training loop: pure torch, the same under Ray Train, torchrun, or in one process."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ucdr_ray.augment import augment
from ucdr_ray.checkpoint import bank_parts, checkpoints, load_checkpoint, save_checkpoint
from ucdr_ray.config import RunConfig, config_fingerprint
from ucdr_ray.draws import Draws
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.feed import Feed, Images
from ucdr_ray.method_settings import Contrastive
from ucdr_ray.methods.base import Batch, Stage
from ucdr_ray.methods.build import build_method
from ucdr_ray.models.backbone import build_backbone
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import LocalMemory, Memory, Neighbourhood
from ucdr_ray.settings import TrainConfig
from ucdr_ray.training_state import restore, state_of
from ucdr_ray.world import World

Metrics = dict[str, float | int | str]
MakeMemory = Callable[[RunConfig, Sequence[tuple[str, int]], World, torch.device], Memory]


def local_memory(
    config: RunConfig, domains: Sequence[tuple[str, int]], world: World, device: torch.device
) -> Memory:
    """All banks in this process, with more workers in each of them."""
    method = config.image_method
    return LocalMemory(
        domains,
        config.model.dim,
        method.max_negatives,
        world.exchange,
        config.train.seed,
        device,
        config.bank.momentum,
    )


def build_encoder(config: RunConfig, backbone_at: str | None = None) -> Encoder:
    """Backbone and fresh head from the config; the same weights for the same seed.

    `backbone_at` is where `model.backbone` lies for a process in another folder than the one it was written for.
    """
    model = config.model
    backbone = build_backbone(backbone_at or model.backbone, config.train.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return Encoder(
            backbone, config.data.size, config.data.resize, (model.head_hidden, model.dim), model.embedding
        )


def pick_device(train: TrainConfig) -> torch.device:
    """The device of `train.device`; UserError where CUDA is asked for, or needed by the precision, and absent."""
    if train.device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if train.device == "cuda":
        raise UserError("train.device=cuda: this machine shows no CUDA device; allowed: auto, cpu")
    if train.precision != "float32":
        raise UserError(
            f"train.precision={train.precision}: this machine shows no CUDA device; allowed here: float32"
        )
    return torch.device("cpu")


class Trainer:
    """One worker's part of a run.

    Args:
        domains: name and number of images of each domain, in the order of domain indices.
        feed: batches for this worker.
        backbone_at: as of `build_encoder`.
        make_memory: gives the memory that the method works with.
        generator: of methods that have one.
    """

    def __init__(
        self,
        config: RunConfig,
        domains: Sequence[tuple[str, int]],
        feed: Feed,
        backbone_at: str | None = None,
        make_memory: MakeMemory = local_memory,
        generator: Generator | None = None,
    ) -> None:
        self.config, self.feed, self.world = config, feed, World()
        self.names = [name for name, _ in domains]
        self.device = pick_device(config.train)
        encoder = build_encoder(config, backbone_at).to(self.device)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from its stubs
        precision: torch.dtype = getattr(torch, config.train.precision)
        self.method = build_method(config, encoder, self.names, precision, generator, self.world)
        self.memory = make_memory(config, domains, self.world, self.device)
        self.optimizer = self._optimizer(encoder)
        self.epoch, self.step = 0, 0
        if self.world.size > 1:
            train_norm = config.model.batch_norm == "train"
            self.method.online = DistributedDataParallel(
                self.method.online,
                forward_sync_buffers=train_norm,
                # Not every loss, of which not every stage has all, depends on every part.
                find_unused_parameters=bool(self.method.extras()),
            )

    def _optimizer(self, encoder: Encoder) -> torch.optim.Optimizer:
        train = self.config.train
        groups = [
            {"params": list(encoder.backbone.parameters()), "factor": 1.0},
            {"params": list(encoder.head.parameters()), "factor": train.head_lr_factor},
        ]
        for extra in self.method.extras().values():
            factor = train.head_lr_factor * self.method.extra_lr_factor
            groups.append({"params": list(extra.parameters()), "factor": factor})
        if train.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay)
        return torch.optim.SGD(groups, lr=train.lr, momentum=0.9, weight_decay=train.weight_decay)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return sum(stage.epochs for stage in self.method.stages())

    def stage_of(self, epoch: int) -> tuple[Stage, bool]:
        """The stage of an epoch, and whether it is the stage's last."""
        end = 0
        for stage in self.method.stages():
            end += stage.epochs
            if epoch < end:
                return stage, epoch == end - 1
        raise ValueError(f"epoch {epoch} of {end}")

    def run(self, checkpoint_root: Path | None, on_epoch: Callable[[Metrics, "Trainer"], None]) -> Encoder:
        """Train from the present epoch to the last; `on_epoch` gets each epoch's metrics, on every worker."""
        self._train_mode()
        while self.epoch < self.epochs:
            metrics = self._epoch(self.stage_of(self.epoch)[0])
            on_epoch(metrics, self)
            last = self.stage_of(self.epoch - 1)[1]  # asked afterwards: a method may end a stage by itself
            due = last or self.epoch % self.config.train.checkpoint_every == 0
            if checkpoint_root is not None and due:
                self.save(checkpoint_root)
        return self.method.encoder.eval()

    def _epoch(self, stage: Stage) -> Metrics:
        started = time.perf_counter()
        metrics: Metrics = {"epoch": self.epoch + 1, "stage": stage.name, "lr": self._rate(self.step)}
        begins = stage.contrasts and (self.epoch == 0 or not self.stage_of(self.epoch - 1)[0].contrasts)
        if begins:
            self.method.start_target()
        method = self.config.method
        search = method if stage.searches and isinstance(method, Contrastive) else None
        if begins or (search is not None and search.refresh):
            self.fill_memory()
        if search is not None:
            exact_up_to = self.config.bank.exact_up_to
            metrics |= self.memory.rebuild(
                Neighbourhood(stage.k_in, stage.k_cross, search.mutual, search.centre, exact_up_to)
            )
        metrics |= self.method.begin_epoch(self.epoch, self.memory)
        searched = time.perf_counter()
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for images in self.feed.epoch(self.epoch, stage.latents):
            for name, value in self._step(images, stage).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
                counts[name] = counts.get(name, 0) + 1
        self._agree()
        values = self.world.sum(torch.stack(list(sums.values())))
        metrics |= {name: float(value) / counts[name] for name, value in zip(sums, values, strict=True)}
        if not math.isfinite(float(metrics["loss"])):
            raise JobError(f"the loss became {metrics['loss']} in epoch {self.epoch + 1}: lower train.lr")
        ended = time.perf_counter()
        self.epoch += 1
        images_seen = self.feed.steps() * self.feed.rows
        return metrics | {
            "images_per_s": images_seen / (ended - searched),
            "search_seconds": searched - started,
            "seconds": ended - started,
        }

    def _agree(self) -> None:
        """Give all workers worker 0's statistics of batch normalisation.

        Each worker's own are of its share of the batches. Keys that were made with different ones would not be
        comparable, and a checkpoint holds worker 0's alone.
        """
        if self.config.model.batch_norm == "train":
            self.world.copy_first(self.method.encoder.buffers())
            self.method.copy_statistics()

    def _step(self, images: Images, stage: Stage) -> dict[str, Tensor]:
        if stage.contrasts:
            self.memory.expect(images.domain, images.slot)
        batch = self._batch(images)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step) * group["factor"]
        losses = self.method.step(batch, stage, self.memory)
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages over workers, the losses are meant to be added up.
        (losses.total * self.world.size).backward()
        self.optimizer.step()
        self.method.update_target()
        self.step += 1
        terms = {f"loss_{name}": term for name, term in losses.terms.items()}
        return {"loss": losses.total.detach()} | terms | losses.measures

    def _batch(self, images: Images) -> Batch:
        pixels, size = images.pixels.to(self.device), self.config.data.size
        views = [
            augment(pixels, size, self.config.augment, self.feed.rows, images.position, self._seed(view))
            for view in range(self.method.views)
        ]
        domain, slot = images.domain.to(self.device), images.slot.to(self.device)
        latents = None if images.latents is None else images.latents.to(self.device)
        draws = Draws(self.feed.rows, self._seed(2), images.position)
        return Batch(views[0], views[-1], domain, slot, self.feed.rows, latents, draws, self.step)

    def _seed(self, purpose: int) -> int:
        """Of a step's random numbers: 0 and 1 for the two views, 2 for the method."""
        return int(np.random.SeedSequence([self.config.train.seed, self.step, purpose]).generate_state(1)[0])

    def _rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        steps, train = self.feed.steps(), self.config.train
        warm, total = train.warmup_epochs * steps, self.epochs * steps
        if step < warm:
            return train.lr * (step + 1) / warm
        return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))

    @torch.no_grad()
    def fill_memory(self) -> None:
        """One pass over all images: un-augmented keys of the momentum encoder into the banks."""
        self.method.target.eval()
        for images in self.feed.sweep():
            pixels = images.pixels.to(self.device).float() / 255
            if pixels.shape[-1] != self.config.data.size:
                pixels = torch.nn.functional.interpolate(
                    pixels, size=self.config.data.size, mode="bilinear", antialias=True
                )
            key = self.method.target(pixels)
            self.memory.push(images.domain.to(self.device), images.slot.to(self.device), key)
        self._train_mode()

    def _train_mode(self) -> None:
        self.method.online.train()
        self.method.target.train(not self.method.target_frozen)
        if self.config.model.batch_norm == "frozen":
            for encoder in (self.method.encoder, self.method.target):
                for module in encoder.modules():
                    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                        module.eval()

    def save(self, root: Path) -> None:
        """Write a checkpoint (worker 0) and wait for it (all)."""
        if self.world.rank == 0:
            tensors = state_of(self.method, self.optimizer)
            values = {
                "epoch": self.epoch,
                "domains": self.names,
                "config": config_fingerprint(self.config),
                "bank_version": self.memory.version,
            }
            keep = self.config.train.keep_checkpoints
            save_checkpoint(root, self.step, tensors, values, keep, self.memory.save)
        self.world.barrier()

    def resume(self, root: Path) -> bool:
        """Continue from the newest complete checkpoint, if there is one; all workers together.

        Raises:
            UserError: it is damaged, or was made with another config.
        """
        found = checkpoints(root)
        if not found:
            self.memory.load(root, [], 0)
            return False
        tensors, values = load_checkpoint(found[-1])
        if values["config"] != config_fingerprint(self.config):
            raise UserError(
                f"checkpoint {found[-1]} was made with another config; use the same one or another --out"
            )

        restore(self.method, self.optimizer, tensors)
        self.memory.load(found[-1], bank_parts(values), int(values["bank_version"]))
        self.epoch, self.step = int(values["epoch"]), int(values["step"])
        return True
