"""Weights, optimizer and random state of a training process, as tensors by name."""

import torch
from torch import Tensor

from ucdr_ray.methods.base import Method
from ucdr_ray.named_tensors import below, optimizer_state, restore_optimizer


def state_of(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What `restore` needs; the memory bank writes its own part."""
    modules = {"encoder": method.encoder, "target": method.target} | method.extras()
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    return tensors | optimizer_state(optimizer) | {"rng": torch.get_rng_state()}


def restore(method: Method, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Go on from there."""

    modules = {"encoder": method.encoder, "target": method.target} | method.extras()
    for name, module in modules.items():
        module.load_state_dict(below(f"{name}.", tensors))
    restore_optimizer(optimizer, tensors)
    torch.set_rng_state(tensors["rng"])
