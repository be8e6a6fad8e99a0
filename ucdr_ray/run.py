"""The folder of a training run: what it is, how far it came, what it measured.

```
RUN/
  run.json        name, status (running, interrupted, failed, finished), fingerprints, run in MLflow
  config.yaml     the whole config            metrics.jsonl   one row per finished epoch
  starts.jsonl    one row each time that the workers took up training: after which epoch
  checkpoints/    complete ones only          encoder/        the finished model
  content/        with a generator: what makes [z]       words.safetensors   of TKI: vectors, and features of prompts
```
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ucdr_ray.catalog import Catalog
from ucdr_ray.checkpoint import checkpoints, load_checkpoint
from ucdr_ray.config import RunConfig, config_fingerprint, dump_config, load_config
from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write, is_temporary, read_json, write_json

_FREE = (
    "tracking.",
    "bank.shards",
    "bank.copy_limit_gb",
    "bank.timeout",
    "train.threads",
    "train.checkpoint_",
    "train.keep_",
    "train.max_failures",
    "method.latents",
    "method.gradient_checkpointing",
    "method.channels_last",
)
_TOLD = ("name", "status", "catalog", "catalog_fingerprint", "config_fingerprint")
_OURS = {
    ".lock",
    "config.yaml",
}  # all that a start can leave that came to nothing, besides hidden temporary names


@dataclass(frozen=True)
class Run:
    """One such folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder"

    @property
    def content(self) -> Path:
        """What makes [z], of a method that has a generator."""
        return self.path / "content"

    @property
    def words(self) -> Path:
        """The domain vectors and the features of all prompts, of a method that trains on words."""
        return self.path / "words.safetensors"

    def read(self) -> dict[str, Any]:
        """`run.json`; UserError where there is none or it isn't one."""
        values = read_json(self.path / "run.json", "run")
        if not isinstance(values, dict) or values.get("format") != "ucdr-run" or values.get("version") != 1:
            raise UserError(f"{self.path / 'run.json'} is not a run of version 1")
        if strange := [name for name in _TOLD if not isinstance(values.get(name), str)]:
            raise UserError(f"damaged run: {self.path / 'run.json'} does not say its {strange[0]}")
        return values

    def update(self, **values: Any) -> None:
        """Change fields of `run.json`."""
        write_json(self.path / "run.json", self.read() | values)

    def metrics(self) -> list[dict[str, Any]]:
        """One row per finished epoch, oldest first."""
        return self._rows("metrics.jsonl", ("epoch", "seconds"))

    def add_metrics(self, row: dict[str, Any]) -> None:
        """Append an epoch's row."""
        self._write("metrics.jsonl", [*self.metrics(), row])

    def cut_metrics(self, epoch: int) -> None:
        """Forget the rows after `epoch`, which a resumed run makes anew."""
        rows = self.metrics()
        if any(row["epoch"] > epoch for row in rows):
            self._write("metrics.jsonl", [row for row in rows if row["epoch"] <= epoch])

    def starts(self) -> list[int]:
        """After which epoch the workers took up training, each time that they did: more than once if one died."""
        return [row["epoch"] for row in self._rows("starts.jsonl", ("epoch",))]

    def add_start(self, epoch: int) -> None:
        """Note that the workers take up training after `epoch`."""
        self._write("starts.jsonl", [{"epoch": start} for start in [*self.starts(), epoch]])

    def bank_restarts(self) -> list[tuple[int, str]]:
        """Shards of the memory bank that were replaced, in order, and why one began without its rows, or nothing."""
        return [
            (row["shard"], row["problem"]) for row in self._rows("bank/restarts.jsonl", ("shard", "problem"))
        ]

    def _rows(self, file: str, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
        try:
            lines = (self.path / file).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        try:
            rows = [json.loads(line) for line in lines]
        except ValueError:
            rows = [None]
        if not all(isinstance(row, dict) and row.keys() >= set(wanted) for row in rows):
            raise UserError(f"damaged run: a line of {self.path / file} does not say {', '.join(wanted)}")
        return rows

    def _write(self, file: str, rows: list[dict[str, Any]]) -> None:
        # Whole, because a reader may look at any moment, and a power cut must not leave half a line.
        atomic_write(self.path / file, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def begun(self) -> bool:
        """Whether workers took up training: a call that failed or was killed before it also leaves `run.json`."""
        finished = self.read()["status"] == "finished"
        return finished or bool(self.starts()) or bool(checkpoints(self.checkpoints))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings away. UserError: another process trains here."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"--out {self.path}: another process is training there") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def going(self) -> Iterator[None]:
        """Say in `run.json` how the training inside ends."""
        try:
            yield
        except BaseException as error:
            self.update(status="failed" if isinstance(error, Exception) else "interrupted")
            raise
        self.update(status="finished")


def rate(rows: Sequence[dict[str, Any]]) -> str:
    """Mean rate of some epochs, in words, such as "1,200 images/s"; of a method that reads none, prompts."""
    what = "images" if "images_per_s" in rows[0] else "prompts"
    mean = sum(float(row[f"{what}_per_s"]) for row in rows) / len(rows)
    return f"{mean:,.0f} {what}/s"


def check_folder(path: Path, resume: bool) -> Run:
    """The run at `path`, which may yet have to be begun.

    Raises:
        UserError: there is something else, or nothing to resume.
    """
    run = Run(Path(path))
    if (path / "run.json").exists():
        return run
    if path.exists() and (not path.is_dir() or not all(_is_ours(entry.name) for entry in path.iterdir())):
        raise UserError(f"--out {path} exists and is not a run; choose another --out")
    if resume and not path.exists():
        raise UserError(f"--resume: there is no run at {path}; leave --resume out to start one")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}") from None
    return run


def _is_ours(name: str) -> bool:
    return name in _OURS or is_temporary(name)


def begin(
    run: Run, config: RunConfig, catalog: Catalog | None, resume: bool, generator: str | None = None
) -> bool:
    """Start the run, or with `resume` take it up where its newest checkpoint is; call it while the run is held.

    A folder in which no worker has trained yet counts as empty: whatever a call left there, another one takes it over.

    Args:
        catalog: of the images; None of a method that trains on none.
        generator: fingerprint of the one that teaches, of methods that have one.

    Returns:
        False if there is nothing to do, because the run is finished.

    Raises:
        UserError: the run is of another config, catalog or generator, is finished or unfinished without `resume`, or
            its newest checkpoint is damaged.
    """
    path = run.path
    values = run.read() if (path / "run.json").exists() else None
    if values is None or not run.begun():
        _write_new(run, config, catalog, generator, values or {})
        return True
    if values["config_fingerprint"] != config_fingerprint(config):
        where = _difference(run, config)
        raise UserError(f"--out {path} holds a run of another config ({where}); choose another --out")
    if values["catalog_fingerprint"] != (catalog.fingerprint if catalog else ""):
        there = values["catalog"]
        raise UserError(f"--out {path} holds a run on another catalog, {there}; choose another --out")
    if values.get("generator_fingerprint", generator) != generator:
        raise UserError(
            f"--out {path} holds a run taught by another generator, of other weights; choose another --out"
        )
    if values["status"] == "finished" and not resume:
        raise UserError(f"{path} holds a finished run; choose another --out to train anew")
    if values["status"] == "finished":
        return False
    if not resume:
        raise UserError(f"{path} holds an unfinished run; add --resume to go on, or choose another --out")
    for leftover in run.checkpoints.glob(".*"):  # of a process that died while writing
        shutil.rmtree(leftover, ignore_errors=True)
    found = checkpoints(run.checkpoints)
    run.cut_metrics(load_checkpoint(found[-1])[1]["epoch"] if found else 0)
    # Workers and tracking may have changed.
    atomic_write(run.path / "config.yaml", dump_config(config).encode())
    run.update(status="running")
    return True


def _write_new(
    run: Run, config: RunConfig, catalog: Catalog | None, generator: str | None, before: dict[str, Any]
) -> None:
    """Make the folder that of a run that nothing has been trained of; `before` is the `run.json` that it replaces."""
    made_by = config_fingerprint(config)
    identity = {
        "config_fingerprint": made_by,
        "catalog_fingerprint": catalog.fingerprint if catalog else "",
        "generator_fingerprint": generator,
    }
    same = before.items() >= identity.items()
    if not same:
        (run.path / "mlflow_spool.jsonl").unlink(missing_ok=True)  # what another run has to tell
    atomic_write(run.path / "config.yaml", dump_config(config).encode())
    write_json(run.path / "run.json", {
        "format": "ucdr-run",
        "version": 1,
        "name": f"{config.method.name}-{made_by[:8]}-{run.path.name}",
        **identity,
        "catalog": str(catalog.path.resolve()) if catalog else "",
        "mlflow_run_id": before["mlflow_run_id"] if same else None,
        "status": "running",
    })  # fmt: skip


def _difference(run: Run, config: RunConfig) -> str:
    """The first field in which the run's config differs, such as `train.lr: 0.001 there, 0.002 here`."""
    there, here = (_flat(c.model_dump(mode="json")) for c in (load_config(run.path / "config.yaml"), config))
    # Workers last: often they may differ.
    for name in sorted(here, key="train.workers".__eq__):
        if there[name] != here[name] and not name.startswith(_FREE):
            return f"{name}: {there[name]} there, {here[name]} here"
    return "see its config.yaml"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
