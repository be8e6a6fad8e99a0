"""The vectors that neighbours are searched in: of an embeddings folder, or of the bank that a run has."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ucdr_ray.checkpoint import bank_parts, checkpoints, read_values
from ucdr_ray.config import load_config
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.method_settings import Contrastive
from ucdr_ray.neighbors.parts import BankPart, read_banks
from ucdr_ray.run import Run


@dataclass(frozen=True)
class Searched:
    """Unit vectors (N, D) of each domain, and how the training of the run that they are of searches in them."""

    domains: dict[str, Tensor]
    checkpoint: str | None = None
    centre: bool = False
    k_in: int | None = None
    k_cross: int | None = None

    @property
    def note(self) -> str:
        """For a title."""
        return "" if self.checkpoint is None else f", checkpoint {self.checkpoint}"


def searched(source: Path, wanted: list[str] | None) -> Searched:
    """Read a run's newest complete checkpoint, or an embeddings folder.

    Args:
        wanted: domains; all when None.

    Raises:
        UserError: it is neither, is unfinished or damaged, or has no such domain.
    """
    if not source.is_dir():
        raise UserError(f"no folder at {source}; allowed: a run of `ucdr train` or what `ucdr embed` wrote")
    if (source / "run.json").exists():
        return _of_run(Run(source), wanted)
    if not (source / "manifest.json").exists():
        raise UserError(
            f"{source} is neither a run of `ucdr train` nor what `ucdr embed` has finished writing"
        )
    opened = Embeddings.open(source)
    names = _chosen([domain.name for domain in opened.domains], wanted, source)
    return Searched({name: torch.from_numpy(opened.vectors(name)) for name in names})


def _of_run(run: Run, wanted: list[str] | None) -> Searched:
    run.read()  # refuses what is no run
    config = load_config(run.path / "config.yaml")
    found = checkpoints(run.checkpoints)
    if not found:
        raise UserError(f"the run at {run.path} has no checkpoint yet, and so no bank to search in")
    values = read_values(found[-1])
    names = _chosen(values["domains"], wanted, run.path)
    banks = dict(zip(values["domains"], bank_keys(found[-1], bank_parts(values)), strict=True))
    for name in names:
        if not len(banks[name]) or not bool(banks[name].isfinite().all()):
            raise UserError(f"checkpoint {found[-1]}: the bank of {name!r} is empty or not finite")
    method = config.method
    keys = {name: banks[name] for name in names}
    if not isinstance(method, Contrastive):  # it searches for no neighbours
        return Searched(keys, found[-1].name)
    return Searched(keys, found[-1].name, method.centre, method.k_in, method.k_cross)


def bank_keys(checkpoint: Path, parts: list[BankPart]) -> list[Tensor]:
    """The rows (N, D) of each domain's bank in a checkpoint, without those that no key has come for yet."""
    return [bank.keys[bank.filled] for bank in read_banks(checkpoint, parts)]


def _chosen(there: list[str], wanted: list[str] | None, source: Path) -> list[str]:
    for name in wanted or []:
        if name not in there:
            raise UserError(f"no domain {name!r} in {source}; it has: {', '.join(there)}")
    if wanted and len(set(wanted)) < len(wanted):
        raise UserError(f"--domains {','.join(wanted)}: one is named twice")
    return wanted or there
