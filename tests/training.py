"""The smallest training that still has everything: two small domains, a mini ResNet, seconds long."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import generators
from ucdr_ray.catalog import Catalog
from ucdr_ray.config import RunConfig, load_config
from ucdr_ray.decoded import decode, spans
from ucdr_ray.engine import Metrics, Trainer
from ucdr_ray.feed import ResidentFeed
from ucdr_ray.models.codec import Codec

TINY = [
    "data.size=32",
    "model.batch_norm=frozen",
    "model.head_hidden=32",
    "model.dim=16",
    "method.k_in=3",
    "method.k_cross=3",
    "method.temperature=0.1",
    "method.momentum=0.9",
    "method.stages.instance=2",
    "method.stages.in_domain=1",
    "method.stages.cross_domain=2",
    "method.refresh=false",
    "method.centre=false",
    "train.optimizer=sgd",
    "train.batch=8",
    "train.lr=0.01",
    "train.checkpoint_every=1",
]


DUDE = [
    *[setting for setting in TINY if "stages" not in setting],
    "method.name=dude",
    "method.stages.warm_up=2",
    "method.stages.in_domain=1",
    "method.stages.cross_domain=2",
    "method.style_tokens=tuned",
    "method.generator_precision=float32",
]

UEM = [
    *[setting for setting in TINY if not setting.startswith("method.")],
    "method.name=uem",
    "method.stages.idse=3",
    "method.stages.cdsm=2",
    "method.elbow_every=2",
    "bank.momentum=0.5",
    "train.lr=0.0001",
]


def overrides(settings: list[str] | None = None) -> list[str]:
    """`TINY`, then `settings`, as `--set` takes them."""
    return [*TINY, *(settings or [])]


def tiny_config(settings: list[str] | None = None) -> RunConfig:
    return load_config(None, overrides(settings))


def dude_config(settings: list[str] | None = None) -> RunConfig:
    return load_config(None, [*DUDE, *(settings or [])])


def uem_config(settings: list[str] | None = None) -> RunConfig:
    return load_config(None, [*UEM, *(settings or [])])


def trainer(catalog: Catalog, config: RunConfig, rank: int = 0, workers: int = 1) -> Trainer:
    """A trainer of all domains in this process, without Ray."""
    names = [domain.name for domain in catalog.domains]
    side = config.data.stored_size or config.data.size
    arrays = [decode(spans(catalog, name), side, config.data.resize) for name in names]
    sizes = [(name, len(array)) for name, array in zip(names, arrays)]
    generator, latents = None, None
    if config.method.name == "dude":
        generator = generators.generator()
        latents = [_latents(generator.codec, decode(spans(catalog, name), 16, "squash")) for name in names]
    feed = ResidentFeed(arrays, config.train.batch, config.train.seed, rank, workers, latents)
    return Trainer(config, sizes, feed, generator=generator)


def _latents(codec: Codec, images: np.ndarray) -> np.ndarray:
    """(N, 2, 2, C, s, s): of each image and of it flipped, mean and log-variance."""
    views = [torch.from_numpy(images), torch.from_numpy(images).flip(-1)]
    return torch.stack([torch.stack(codec.encode(view), dim=1) for view in views], dim=1).half().numpy()


def state(trained: Trainer) -> dict[str, Tensor]:
    """Everything that decides what comes next."""
    found = {f"encoder.{name}": value for name, value in trained.method.encoder.state_dict().items()}
    found |= {f"target.{name}": value for name, value in trained.method.target.state_dict().items()}
    for name, extra in trained.method.extras().items():
        found |= {f"{name}.{key}": value for key, value in extra.state_dict().items()}
    for index, bank in enumerate(trained.memory.banks):
        found |= {f"bank.{index}.keys": bank.keys, f"bank.{index}.filled": bank.filled}
    for index, values in trained.optimizer.state_dict()["state"].items():
        found |= {
            f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in values.items() if v is not None
        }
    return found | {
        "rng": torch.get_rng_state(),
        "count": torch.tensor([trained.epoch, trained.step, trained.memory.version]),
    }


def train_alone(
    catalog: Catalog,
    folder: Path,
    settings: list[str] | None = None,
    on_epoch: Callable[[Metrics, Trainer], None] = lambda metrics, trainer: None,
    make_config: Callable[[list[str] | None], RunConfig] = tiny_config,
) -> dict[str, Tensor]:
    """Train in this process, with one thread, undisturbed; the encoder's tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer(catalog, make_config(settings)).run(folder / "checkpoints", on_epoch).save(folder / "encoder")
    finally:
        torch.set_num_threads(threads)
    return tensors(folder)


def tensors(run: Path) -> dict[str, Tensor]:
    """Weights of a finished run."""
    return load_file(run / "encoder" / "encoder.safetensors")
