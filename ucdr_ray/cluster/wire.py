"""Tensors travel between actors as numpy arrays, which Ray hands on without copying."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch


def packed(value: Any) -> Any:
    """The value with arrays instead of tensors, also inside tuples, lists and dataclasses."""
    return _changed(value, torch.Tensor, torch.Tensor.numpy)


def unpacked(value: Any) -> Any:
    """What `packed` was given. Nothing may write to it: Ray's arrays are shared."""
    return _changed(value, np.ndarray, torch.from_numpy)


def own(value: Any) -> Any:
    """What `packed` was given, as a copy."""
    return _changed(value, np.ndarray, lambda array: torch.from_numpy(array.copy()))


def _changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_changed(one, kind, change) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: _changed(getattr(value, field.name), kind, change) for field in fields(value)}
        return replace(value, **found)
    return value
