"""Banks in a checkpoint: each shard writes a part of its own; any number of shards reads them back."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ucdr_ray.errors import UserError
from ucdr_ray.files import sha256_file
from ucdr_ray.neighbors.bank import Bank


def span(rows: int, shard: int, shards: int) -> tuple[int, int]:
    """First slot and end of what one of some shards holds of a domain of `rows` images: consecutive slots."""
    return rows * shard // shards, rows * (shard + 1) // shards


class BankPart(BaseModel):
    """One part file: of each domain the rows of slots first..stop-1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^\w[\w.-]*$")  # in the checkpoint's own folder
    sha256: str
    spans: list[tuple[int, int]]


def write_part(folder: Path, file: str, banks: Sequence[Bank], spans: Sequence[tuple[int, int]]) -> BankPart:
    """Write the banks' rows to `folder/file` (safetensors: keys.<domain>, filled.<domain>)."""
    tensors: dict[str, Tensor] = {}
    for index, bank in enumerate(banks):
        tensors |= {f"keys.{index}": bank.keys.cpu(), f"filled.{index}": bank.filled.cpu()}
    save_file(tensors, folder / file)
    return BankPart(file=file, sha256=sha256_file(folder / file), spans=list(spans))


def read_parts(
    folder: Path, parts: Sequence[BankPart], banks: Sequence[Bank], spans: Sequence[tuple[int, int]]
) -> None:
    """Fill banks, which hold the slots of `spans`, from the parts that touch them.

    Raises:
        UserError: a part is missing or damaged, or the parts don't hold all of the slots.
    """
    missing = [stop - first for first, stop in spans]
    for part in parts:
        shared = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(part.spans, spans, strict=True)]
        if all(first >= stop for first, stop in shared):
            continue
        if not (folder / part.file).is_file() or sha256_file(folder / part.file) != part.sha256:
            raise UserError(
                f"checkpoint {folder} is damaged: {part.file} is missing or its checksum differs; "
                "delete this folder to resume from an earlier one"
            )
        with safe_open(folder / part.file, "pt") as tensors:
            for index, (first, stop) in enumerate(shared):
                if first < stop:
                    theirs = slice(first - part.spans[index][0], stop - part.spans[index][0])
                    ours = slice(first - spans[index][0], stop - spans[index][0])
                    banks[index].keys[ours] = tensors.get_slice(f"keys.{index}")[theirs].to(banks[index].keys)
                    banks[index].filled[ours] = tensors.get_slice(f"filled.{index}")[theirs].to(
                        banks[index].filled
                    )
                    missing[index] -= stop - first
    if any(missing):
        raise UserError(f"checkpoint {folder} is damaged: {sum(missing)} rows of the memory bank are missing")


def read_banks(folder: Path, parts: Sequence[BankPart]) -> list[Bank]:
    """All banks of a checkpoint, each whole.

    Raises:
        UserError: as `read_parts`.
    """
    spans = [
        (0, max(stop for _, stop in of_domain))
        for of_domain in zip(*(part.spans for part in parts), strict=True)
    ]
    try:
        with safe_open(folder / parts[0].file, "pt") as tensors:
            dim = tensors.get_slice("keys.0").get_shape()[1]
    except (OSError, SafetensorError):
        dim = 0  # which part is damaged, the checksums say
    banks = [Bank(rows, dim) for _, rows in spans]
    read_parts(folder, parts, banks, spans)
    return banks
