"""UEM where categories differ: close, partial and open-set retrieval against zero-training and staged alignment.

    python benchmarks/uem.py --images pacs --data pacs.zip --weights weights/mobilenet_v1_025_imagenet
    python benchmarks/uem.py --images emoji --data emoji.zip --weights weights/mobilenet_v1_025_imagenet
    python benchmarks/uem.py                  # what its neighbours cost, alone (`uem_cost.py`, which the others add)

Every seed draws its own halves of the categories (`ucdr split`), and trains every method on them, two runs at a time,
one core each. One domain searches another one, or all others after training on all of them. Ablations (the paper's
Table 4) are trained in the open-set setting, as there. What is finished under --work is kept: the same command goes on.

The accuracy of "nothing here matches" is that of UEM's own prototypes (App. B.1) for UEM and its ablations, that of
distances inside the query domain (B.2) for the others. The weights are supervised on ImageNet; the paper starts from
MoCo v2. Compare these figures with each other, not with the paper's.
"""

import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from staged import call, unpack
from study import ALONE, percent
from uem_cost import cost

from ucdr_ray.evaluation.protocols import SETTINGS, Setting
from ucdr_ray.files import read_json, write_json

RECIPES = Path(__file__).parents[1] / "jobs" / "configs"
# Who searches whom; the last one trains on all of its domains together.
TASKS = {
    "pacs": [
        ("sketch", "photo"),
        ("art_painting", "cartoon"),
        ("sketch", "photo,art_painting,cartoon"),
    ],
    "emoji": [
        ("emojitwo_bw", "noto"),
        ("fluent_3d", "openmoji"),
        ("emojitwo_bw", "noto,openmoji,fluent_3d"),
    ],
}
ABLATIONS = {
    "no merging": ["method.merge=false"],
    "no SEL": ["method.weight_sel=0"],
    "plain adversarial": ["method.weight_spr=0"],
    "nearest neighbour": ["method.match=nearest"],
    "IDSE alone": ["method.stages.cdsm=0"],
    "switch by itself": ["method.switch=stable"],
    "the paper's weights": [
        *("method.reduction=paper", "method.temperature=0.07", "bank.momentum=0.99"),
        *("method.weight_ince=1", "method.weight_dal=1", "method.weight_match=1"),
    ],
}
# The alignment's recipe half as long, which costs it half a point of map@all; about the time of UEM's.
SHORT = ["method.stages.instance=1", "method.stages.in_domain=2", "method.stages.cross_domain=2"]
QUICK = ["data.size=64", "data.stored_size=64"]


@dataclass(frozen=True)
class Job:
    """One training by one method on one split, or none by `zero`, and its evaluation."""

    images: str
    query: str
    galleries: str
    setting: Setting
    seed: int
    method: str
    work: Path

    @property
    def task(self) -> str:
        return f"{self.query} → {self.galleries.replace(',', ', ')}"

    @property
    def catalog(self) -> Path:
        return self.work / f"{self.query}-{self.galleries}-{self.setting}-{self.seed}"

    @property
    def folder(self) -> Path:
        return self.catalog.with_name(f"{self.catalog.name}-{self.method.replace(' ', '_')}")

    @property
    def result(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.json")

    def run(self, weights: str, overrides: Sequence[str]) -> dict[str, Any]:
        """What `ucdr evaluate --null` says of it."""
        if not self.result.exists():
            source: list[object] = ["--run", self.folder]
            if self.method == "zero":
                source = ["--backbone", weights, "--size", 64 if overrides == QUICK else 96]
            else:
                self._train(weights, overrides)
            ucdr("evaluate", "--catalog", self.catalog, *source, "--null", "--json", self.result)
        found: dict[str, Any] = read_json(self.result, "figures")
        return found

    def _train(self, weights: str, overrides: Sequence[str]) -> None:
        name = "alignment" if self.method == "alignment" else "uem"
        changed = [f"{field}={value}" for field, value in ALONE.items()]
        changed += [f"model.backbone={weights}", f"train.seed={self.seed}", *overrides]
        changed += SHORT if name == "alignment" else []
        if overrides == QUICK:
            stages = ("idse", "cdsm") if name == "uem" else ("instance", "in_domain", "cross_domain")
            changed += [f"method.stages.{stage}=1" for stage in stages]
        changed += ABLATIONS.get(self.method, [])
        recipe = RECIPES / f"{self.images}_{name}.yaml"
        words: list[object] = ["--catalog", self.catalog, "--config", recipe, "--out", self.folder]
        words += ["--resume"] if self.folder.is_dir() else []
        ucdr("train", *words, *(word for one in changed for word in ("--set", one)))


def ucdr(*words: object) -> None:
    """One command in a process of its own, on one core."""
    command = [str(Path(sys.executable).with_name("ucdr")), *map(str, words)]
    # Ray's workers, which decode, would else wait for the other process's training.
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "RAY_worker_niceness": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")


@dataclass(frozen=True)
class Figures:
    """Of one job, means over its pairs."""

    map: float
    accuracy: dict[str, dict[str, float | None]]  # detector -> kind of query -> share of right answers

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Figures":
        told = found["open_set"].values()
        kinds = ("private", "shared", "all")
        return cls(
            found["mean"]["map@all"],
            {
                detector: {kind: _mean([one[detector][kind] for one in told]) for kind in kinds}
                for detector in ("prototypes", "distances")
            },
        )


def _mean(values: Sequence[float | None]) -> float | None:
    some = [value for value in values if value is not None]
    return statistics.fmean(some) if some else None


def plan(images: str, seeds: Sequence[int], ablations: bool, work: Path) -> list[Job]:
    """All jobs, in an order in which a part of them is a table already."""
    methods = ["zero", "uem", "alignment"]
    jobs = [
        Job(images, query, galleries, setting, seed, method, work)
        for seed, setting, (query, galleries), method in product(seeds, SETTINGS, TASKS[images], methods)
    ]
    if ablations:
        jobs += [
            Job(images, query, galleries, "open", seed, method, work)
            for seed, method, (query, galleries) in product(seeds, ABLATIONS, TASKS[images][:2])
        ]
    return jobs


def detector_of(method: str) -> str:
    """The detector that the method's accuracy is told by."""
    return "distances" if method in ("zero", "alignment") else "prototypes"


def show(found: dict[Job, Figures]) -> dict[str, float]:
    """The tables; flat keys -> numbers."""
    console, keys = Console(width=150), dict[str, float]()
    methods = list(Counter(job.method for job in found))
    for setting in SETTINGS:
        some = {job: one for job, one in found.items() if job.setting == setting}
        table = Table("", title=f"{setting}-set, map@all % over queries with something to find")
        tasks = list(Counter(job.task for job in some))
        for task in [*tasks, "mean"]:
            table.add_column(task, justify="right")
        for method in methods:
            rows = {job: one.map for job, one in some.items() if job.method == method}
            cells = [
                percent(v) if (v := [m for j, m in rows.items() if j.task == task]) else "" for task in tasks
            ]
            if not rows:
                continue
            if all(cells):
                seeds = sorted({job.seed for job in rows})
                means = [statistics.fmean(m for j, m in rows.items() if j.seed == seed) for seed in seeds]
                cells.append(percent(means))
                prefix = "" if method == "uem" else f"{method.replace(' ', '_')}."
                keys[f"{prefix}{setting}.map@all"] = statistics.fmean(means)
            table.add_row(method, *cells)
        console.print(table)
    return keys | accuracies({job: one for job, one in found.items() if job.setting == "open"}, console)


def accuracies(found: dict[Job, Figures], console: Console) -> dict[str, float]:
    """How often it is told right that there is nothing; flat keys -> numbers."""
    keys = dict[str, float]()
    table = Table(
        "",
        "detector",
        title="open-set, right answers % (lacks / has / all; refusing everything: lacks 100, has 0)",
    )
    tasks = list(Counter(job.task for job in found))
    for task in [*tasks, "all"]:
        table.add_column(task, justify="right")
    for method, detector in product(Counter(job.method for job in found), ("prototypes", "distances")):
        mine = {job: one.accuracy[detector] for job, one in found.items() if job.method == method}
        cells = []
        for task in tasks:
            told = [share for job, share in mine.items() if job.task == task]
            kinds = {
                kind: [s for one in told if (s := one[kind]) is not None]
                for kind in ("private", "shared", "all")
            }
            cells.append(" / ".join(percent(values) for values in kinds.values()) if told else "")
        every = [share for one in mine.values() if (share := one["all"]) is not None]
        if len({job.task for job in mine}) == len(tasks):
            cells.append(f"{100 * statistics.fmean(every):.1f}")
            if detector == detector_of(method):
                prefix = "" if method == "uem" else f"{method.replace(' ', '_')}."
                keys[f"{prefix}open.accuracy"] = statistics.fmean(every)
        table.add_row(method, {"prototypes": "B.1", "distances": "B.2"}[detector], *cells)
    console.print(table)
    return keys


def main(
    images: Annotated[Literal["pacs", "emoji"], typer.Option(help="Which images.")] = "pacs",
    data: Annotated[
        Path | None, typer.Option(help="Their ZIP file, or the folder of domains inside it.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Backbone in transformers format.")] = None,
    work: Annotated[Path, typer.Option(help="Where catalogs and runs go; what is there is reused.")] = Path(
        "runs/uem"
    ),
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "2024,2025,2026",
    ablations: Annotated[bool, typer.Option(help="Train them, too.")] = True,
    quick: Annotated[
        bool, typer.Option(help="One epoch per stage at 64 px, one seed: a smoke figure.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    if (data is None) != (weights is None):
        raise SystemExit("--data and --weights go together")
    keys = dict[str, float]()
    if data is not None and weights is not None:
        work = work / images / ("quick" if quick else "whole")
        work.mkdir(parents=True, exist_ok=True)
        catalog = ingested(images, data, work)
        jobs = plan(images, [2024] if quick else [int(seed) for seed in seeds.split(",")], ablations, work)
        for job in {job.catalog: job for job in jobs}.values():
            words = [
                "--setting",
                job.setting,
                "--query",
                job.query,
                "--gallery",
                job.galleries,
                "--seed",
                job.seed,
            ]
            if not job.catalog.exists():
                ucdr("split", catalog, "--out", job.catalog, *words)
        with ThreadPoolExecutor(2) as pool:
            results = pool.map(lambda job: job.run(weights, QUICK if quick else []), jobs)
            found = {}
            for job, result in zip(jobs, results, strict=True):
                found[job] = Figures.of(result)
                print(
                    f"{len(found)}/{len(jobs)} {job.folder.name}: map@all {found[job].map:.4f}",
                    file=sys.stderr,
                )
        keys |= show(found)
    keys |= cost(*(("random:resnet-mini", 64) if quick else ("random:resnet50", 224)), quick)
    if json_file is not None:
        write_json(json_file, keys)


def ingested(images: str, data: Path, work: Path) -> Path:
    """The catalog of all images whose categories serve."""
    catalog = work / "catalog"
    if not (catalog / "manifest.json").exists():
        words: list[object] = [unpack(data, work), "--out", catalog]
        words += (
            ["--expect", "pacs"]
            if images == "pacs"
            else ["--classes", Path(__file__).with_name("emoji_categories.txt")]
        )
        call("ingest", *words)
    return catalog


if __name__ == "__main__":
    typer.run(main)
