"""Checkpoints: tensors as safetensors, numbers as JSON, checksums; complete or absent, never executed."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint, read_json, sha256_file, staged_folder, write_json
from ucdr_ray.neighbors.parts import BankPart
from ucdr_ray.problems import describe

VERSION = 3
_EARLIER = "delete this folder to resume from an earlier one"


def save_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    values: dict[str, Any],
    keep: int,
    bank: Callable[[Path], list[BankPart]] = lambda folder: [],
) -> Path:
    """Write `root/<step>/` atomically, then delete all but the `keep` newest.

    Args:
        bank: writes the memory bank's part files into the folder it is given.
    """
    folder = Path(root) / f"{step:09d}"
    with staged_folder(folder) as staging:
        # Parameters may share storage, which safetensors refuses: clone.
        save_file(
            {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
            staging / "state.safetensors",
        )
        state = values | {
            "format": "ucdr-checkpoint",
            "version": VERSION,
            "step": step,
            "bank": [part.model_dump(mode="json") for part in bank(staging)],
            "sha256": sha256_file(staging / "state.safetensors"),
        }
        write_json(staging / "state.json", state | {"checksum": fingerprint(state)})
    for old in checkpoints(root)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not Path(root).is_dir():
        return []
    return sorted(
        path for path in Path(root).iterdir() if path.name.isdigit() and (path / "state.json").is_file()
    )


def read_values(folder: Path) -> dict[str, Any]:
    """The values of one checkpoint, without its tensors.

    Raises:
        UserError: missing or foreign.
    """
    values = read_json(folder / "state.json", "checkpoint")
    if (
        not isinstance(values, dict)
        or values.get("format") != "ucdr-checkpoint"
        or values.get("version") != VERSION
    ):
        raise UserError(f"{folder} is not a checkpoint of version {VERSION}")
    if values.pop("checksum", None) != fingerprint(values):
        raise UserError(f"checkpoint {folder} is damaged: state.json does not match its checksum; {_EARLIER}")
    return values


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and values of one checkpoint.

    Raises:
        UserError: missing, damaged or foreign.
    """
    values = read_values(folder)
    file = folder / "state.safetensors"
    if not file.is_file() or sha256_file(file) != values.get("sha256"):
        raise UserError(
            f"checkpoint {folder} is damaged: state.safetensors is missing or its checksum differs; {_EARLIER}"
        )
    return load_file(file), values


def bank_parts(values: Mapping[str, Any]) -> list[BankPart]:
    """The memory bank's parts, from a checkpoint's values.

    Raises:
        UserError: they are not what a checkpoint says of its parts.
    """
    try:
        return TypeAdapter(list[BankPart]).validate_python(values.get("bank"))
    except ValidationError as error:
        raise UserError(f"damaged checkpoint: its bank: {'; '.join(describe(error, BankPart))}") from None
