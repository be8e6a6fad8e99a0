"""The vectors that neighbours are searched in: of an embeddings folder, or of the bank that a run has."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ucdr_ray.catalog import Catalog
from ucdr_ray.checkpoint import checkpoints, load_checkpoint
from ucdr_ray.config import RunConfig, load_config
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
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
    trained = _trained_domains(run, config := load_config(run.path / "config.yaml"))
    names = _chosen(trained, wanted, run.path)
    found = checkpoints(run.checkpoints)
    if not found:
        raise UserError(f"the run at {run.path} has no checkpoint yet, and so no bank to search in")
    banks = dict(zip(trained, bank_keys(found[-1], len(trained)), strict=True))
    for name in names:
        if not len(banks[name]) or not bool(banks[name].isfinite().all()):
            raise UserError(f"checkpoint {found[-1]}: the bank of {name!r} is empty or not finite")
    method = config.method
    keys = {name: banks[name] for name in names}
    return Searched(keys, found[-1].name, method.centre, method.k_in, method.k_cross)


def bank_keys(checkpoint: Path, domains: int) -> list[Tensor]:
    """The rows (N, D) of each domain's bank in a checkpoint, without those that no key has come for yet."""
    tensors, _ = load_checkpoint(checkpoint)
    banks = [
        tuple(tensors[f"memory.bank.{index}.{name}"] for name in ("keys", "filled"))
        for index in range(domains)
    ]
    return [keys[filled].float() for keys, filled in banks]


def _trained_domains(run: Run, config: RunConfig) -> list[str]:
    """Names in the order of the banks."""
    if config.data.domains:
        return config.data.domains
    values = run.read()
    path = Path(values["catalog"])
    if not path.exists():
        raise UserError(
            f"the catalog that {run.path} was trained on, which names its domains, is not at {path}"
        )
    catalog = Catalog.open(path, verify=False)
    if catalog.fingerprint != values["catalog_fingerprint"]:
        raise UserError(f"{path} is not what it was when {run.path} was trained on it")
    return [domain.name for domain in catalog.domains]


def _chosen(there: list[str], wanted: list[str] | None, source: Path) -> list[str]:
    for name in wanted or []:
        if name not in there:
            raise UserError(f"no domain {name!r} in {source}; it has: {', '.join(there)}")
    if wanted and len(set(wanted)) < len(wanted):
        raise UserError(f"--domains {','.join(wanted)}: one is named twice")
    return wanted or there
