"""One setting of a recipe changed at a time: each variant trains in a process of its own, two at a time.

What is done under the work folder is kept: the same command goes on.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ucdr_ray.config import RunConfig, config_fingerprint, load_config
from ucdr_ray.files import fingerprint, read_json, write_json

ALONE: dict[str, object] = {"train.workers": 0, "train.threads": 1, "tracking.enabled": False}


@dataclass(frozen=True)
class Variant:
    """One run: its name, its recipe with what is changed (`--set`), and its folder, named by the resulting config."""

    name: str
    recipe: Path
    overrides: list[str]
    config: RunConfig
    run: Path

    @classmethod
    def make(cls, name: str, recipe: Path, changed: Mapping[str, object], work: Path) -> "Variant":
        overrides = [f"{field}={value}" for field, value in (ALONE | dict(changed)).items()]
        config = load_config(recipe, overrides)
        return cls(name, recipe, overrides, config, work / config_fingerprint(config)[:12])


def train(variant: Variant, catalog: Path) -> None:
    """`ucdr train` on one core; a finished run stays as it is."""
    words: list[object] = ["--catalog", catalog, "--config", variant.recipe, "--out", variant.run]
    words += ["--resume"] if variant.run.is_dir() else []
    words += [word for override in variant.overrides for word in ("--set", override)]
    command = [str(Path(sys.executable).with_name("ucdr")), "train", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{variant.name}: {done.stderr.strip().splitlines()[-1]}")


def trained(variants: Sequence[Variant], catalog: Path) -> Iterator[Variant]:
    """Each when it is trained, in their order."""
    with ThreadPoolExecutor(2) as pool:
        trainings = [pool.submit(train, variant, catalog) for variant in variants]
        for variant, training in zip(variants, trainings, strict=True):
            training.result()
            yield variant


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of shares."""
    values = [100 * value for value in values]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


class Kept:
    """Figures of finished runs, by config; they go to a file, if one is given.

    Args:
        made_with: what else decides the figures, such as a generator's checksum: others' figures are not found.
    """

    def __init__(self, file: Path | None, made_with: str) -> None:
        self.file, self.made_with = file, made_with
        self.rows: dict[str, dict[str, Any]] = {}
        if file is not None and file.exists():
            self.rows = read_json(file, "figures of finished runs")

    def _key(self, config: RunConfig, what: str) -> str:
        return fingerprint([what, config_fingerprint(config), self.made_with])[:16]

    def get(self, config: RunConfig, what: str = "run") -> dict[str, float] | None:
        """Of a run with this config, or of something else that belongs to it."""
        found = self.rows.get(self._key(config, what))
        return None if found is None else found["figures"]

    def add(self, name: str, config: RunConfig, figures: dict[str, float], what: str = "run") -> None:
        """Keep it; `name` is for readers of the file."""
        row = {"name": name, "seed": config.train.seed, "figures": figures}
        self.rows[self._key(config, what)] = row
        if self.file is not None:
            write_json(self.file, self.rows)
