"""Weights, optimizer and random state of a training process, as tensors by name."""

import torch
from torch import Tensor

from ucdr_ray.methods.staged import Staged


def state_of(method: Staged, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What `restore` needs; the memory bank writes its own part."""
    modules = {"encoder": method.encoder, "target": method.target} | method.extras()
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value)
            for name, value in state.items()
            if value is not None
        }
    return tensors | {"rng": torch.get_rng_state()}


def restore(method: Staged, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Go on from there."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
        }

    modules = {"encoder": method.encoder, "target": method.target} | method.extras()
    for name, module in modules.items():
        module.load_state_dict(part(f"{name}."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(tensors["rng"])
