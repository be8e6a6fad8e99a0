"""The memory bank beside lightly's memory bank and pytorch-metric-learning's cross-batch memory.

Theirs are queues: the newest keys of whatever came. Ours has a row for each image. Compared on the same batches: time
to push a step's keys and to get at all keys for the loss, keys lost when a batch crosses the queue's end, and whether
a checkpoint brings the bank back.

Runs in an environment of its own, without Ray, torchvision and the rest of this project:

    python -m venv peers && peers/bin/pip install torch==2.13.0 numpy typer rich pytorch-metric-learning
    peers/bin/pip install --no-deps lightly lightly-utils
    PYTHONPATH=. peers/bin/python benchmarks/bank_peers.py --json bank_peers.json
"""

import json as json_module
import statistics
import sys
import time
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ucdr_ray.neighbors.bank import Bank

DIM, BATCH = 128, 96


def lightly_bank(rows: int) -> Any:
    """lightly's module, without what its package imports on the way of torchvision and does not need for it."""
    if find_spec("torchvision") is None:
        for name in ("lightly", "lightly.models", "lightly.models.utils"):
            sys.modules[name] = types.ModuleType(name)
        folder = next(Path(path) / "lightly" for path in sys.path if (Path(path) / "lightly").is_dir())
        sys.modules["lightly"].__path__ = [str(folder)]
        sys.modules["lightly.models"].__path__ = [str(folder / "models")]
        sys.modules["lightly.models"].utils = sys.modules["lightly.models.utils"]  # type: ignore[attr-defined]
        modules = types.ModuleType("lightly.models.modules")
        modules.__path__ = [str(folder / "models" / "modules")]
        sys.modules["lightly.models.modules"] = modules
    from lightly.models.modules.memory_bank import MemoryBankModule

    return MemoryBankModule((rows, DIM), feature_dim_first=False)


class Module:
    """A bank that is a torch module."""

    module: Any

    def state(self) -> dict[str, Any]:
        return self.module.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state)


class Lightly(Module):
    name = "lightly"

    def __init__(self, rows: int) -> None:
        self.module = lightly_bank(rows)

    def step(self, slot: Tensor, key: Tensor) -> Tensor:
        _, bank = self.module(key, update=True)
        return bank

    def keys(self) -> Tensor:
        return self.module.bank


class MetricLearning(Module):
    name = "pytorch-metric-learning"

    def __init__(self, rows: int) -> None:
        from pytorch_metric_learning.losses import CrossBatchMemory, NTXentLoss

        self.module = CrossBatchMemory(NTXentLoss(), DIM, rows)

    def step(self, slot: Tensor, key: Tensor) -> Tensor:
        self.module.add_to_memory(key, slot, len(slot))
        return self.keys()

    def keys(self) -> Tensor:
        return self.module.embedding_memory


class Ours:
    name = "ucdr-ray"

    def __init__(self, rows: int) -> None:
        self.bank = Bank(rows, DIM)

    def step(self, slot: Tensor, key: Tensor) -> Tensor:
        self.bank.push(slot, key)
        return self.bank.keys

    def keys(self) -> Tensor:
        return self.bank.keys

    def state(self) -> dict[str, Any]:
        return {"keys": self.bank.keys.clone(), "filled": self.bank.filled.clone()}

    def load(self, state: dict[str, Any]) -> None:
        self.bank.keys.copy_(state["keys"])
        self.bank.filled.copy_(state["filled"])


def batches(rows: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Every image in its turn, round and round; keys of unit length, all different."""
    draw = torch.Generator().manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(steps * BATCH, DIM, generator=draw), dim=1)
    return [
        (torch.arange(i * BATCH, (i + 1) * BATCH) % rows, keys[i * BATCH : (i + 1) * BATCH])
        for i in range(steps)
    ]


def lost(bank: Any, rows: int) -> int:
    """Of the newest `rows` keys, after a round and a half, those that are not in the bank."""
    steps = batches(rows, rows * 3 // 2 // BATCH + 1)
    for slot, key in steps:
        bank.step(slot, key)
    newest = torch.cat([key for _, key in steps])[-rows:]
    there = {row.tobytes() for row in bank.keys().contiguous().numpy()}
    return sum(row.tobytes() not in there for row in newest.numpy())


def resumes(make: Callable[[int], Any], rows: int) -> bool:
    """Whether a bank from a checkpoint goes on as the one that wrote it."""
    torch.manual_seed(1)
    steps, bank = batches(rows, rows // BATCH), make(rows)
    for slot, key in steps[: len(steps) // 2]:
        bank.step(slot, key)
    torch.manual_seed(2)
    other = make(rows)
    other.step(*steps[0])  # what a first step makes, it has made
    other.load(bank.state())
    for slot, key in steps[len(steps) // 2 :]:
        bank.step(slot, key)
        other.step(slot, key)
    return torch.equal(bank.keys(), other.keys())


def main(
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small bank; a smoke figure.")] = False,
) -> None:
    rows, steps = (8_192, 100) if quick else (65_536, 600)
    torch.set_num_threads(1)
    kinds: list[Callable[[int], Any]] = [Ours, Lightly, MetricLearning]
    banks = [kind(rows) for kind in kinds]
    times: dict[str, list[float]] = {bank.name: [] for bank in banks}
    for slot, key in batches(rows, steps):
        for bank in banks:
            started = time.perf_counter()
            found = bank.step(slot, key)
            times[bank.name].append(time.perf_counter() - started)
            assert len(found) == rows
    table = Table(title=f"{rows:,} rows of {DIM}, batches of {BATCH}, {steps} steps")
    for column in ("bank", "push and query, ms", "keys lost on wrap", "a checkpoint brings it back"):
        table.add_column(column)
    figures: dict[str, float] = {}
    for kind, bank in zip(kinds, banks, strict=True):
        milliseconds = 1e3 * statistics.median(times[bank.name])
        missing, same = lost(kind(rows), rows), resumes(kind, rows)
        table.add_row(bank.name, f"{milliseconds:.3f}", str(missing), "yes" if same else "no")
        figures |= {
            f"{bank.name}.step_ms": milliseconds,
            f"{bank.name}.lost": missing,
            f"{bank.name}.resumes": float(same),
        }
    Console().print(table)
    if json is not None:
        json.write_text(json_module.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
