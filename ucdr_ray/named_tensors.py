"""Tensors by name: parts of a larger state, and what an optimizer remembers."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What `restore_optimizer` needs; the groups' settings are the caller's."""
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Momenta and the like, from among `tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in below("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def digest(module: nn.Module) -> str:
    """SHA-256 of all weights and buffers: their names, shapes and numbers as float32."""
    return digest_of(module.state_dict())


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and numbers as float32."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().float().cpu().contiguous().numpy().data)
    return found.hexdigest()
