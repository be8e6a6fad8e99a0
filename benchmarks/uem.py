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
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from staged import call, unpack
from study import ALONE
from uem_cost import cost
from uem_tables import Row, show

from ucdr_ray.config import config_fingerprint, load_config
from ucdr_ray.evaluation.protocols import SETTINGS, Setting
from ucdr_ray.files import fingerprint, read_json, write_json

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
    "switch by itself": [
        *("method.switch=stable", "method.stages.idse={most}"),
        *("method.stable_at=0.85", "method.stable_for=1", "method.stable_from=0.2"),
    ],
    "the paper's weights": [
        *("method.reduction=paper", "method.temperature=0.07", "bank.momentum=0.99"),
        *("method.weight_ince=1", "method.weight_dal=1", "method.weight_spr=1", "method.weight_match=1"),
    ],
}
# PACS's recipes, that of the alignment half as long, which costs it half a point of map@all: about the time of UEM's.
# Of the emoji, a category has ten to fifty images in a domain.
CHANGED = {
    "pacs": {
        "uem": [],
        "alignment": [f"method.stages.{stage}" for stage in ("instance=1", "in_domain=2", "cross_domain=2")],
    },
    "emoji": {
        "uem": ["method.stages.idse=15", "method.stages.cdsm=24"],
        "alignment": [
            *(f"method.stages.{stage}" for stage in ("instance=3", "in_domain=6", "cross_domain=6")),
            *("method.k_in=20", "method.k_cross=20"),
        ],
    },
}
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

    def run(self, weights: str, overrides: Sequence[str]) -> dict[str, Any]:
        """What `ucdr evaluate --null` says of it. Kept by the whole config: another recipe is another run."""
        source: list[object] = ["--backbone", weights, "--size", 64 if overrides == QUICK else 96]
        made_by = fingerprint(list(map(str, source)))
        if self.method != "zero":
            recipe, changed = self._recipe(weights, overrides)
            made_by = config_fingerprint(load_config(recipe, changed))
        folder = self.catalog.with_name(f"{self.catalog.name}-{self.method.replace(' ', '_')}-{made_by[:8]}")
        result = folder.with_name(f"{folder.name}.json")
        if not result.exists():
            if self.method != "zero":
                source = ["--run", folder]
                words: list[object] = ["--catalog", self.catalog, "--config", recipe, "--out", folder]
                words += ["--resume"] if folder.is_dir() else []
                ucdr("train", *words, *(word for one in changed for word in ("--set", one)))
            ucdr("evaluate", "--catalog", self.catalog, *source, "--null", "--json", result)
        found: dict[str, Any] = read_json(result, "figures")
        return found

    def _recipe(self, weights: str, overrides: Sequence[str]) -> tuple[Path, list[str]]:
        """The recipe's file, and what is changed of it."""
        name = "alignment" if self.method == "alignment" else "uem"
        changed = [f"{field}={value}" for field, value in ALONE.items()]
        changed += [f"model.backbone={weights}", f"train.seed={self.seed}", *overrides]
        changed += CHANGED[self.images][name]
        if overrides == QUICK:
            stages = ("idse", "cdsm") if name == "uem" else ("instance", "in_domain", "cross_domain")
            changed += [f"method.stages.{stage}=1" for stage in stages]
        most = {"pacs": 10, "emoji": 30}[self.images]
        changed += [one.format(most=most) for one in ABLATIONS.get(self.method, [])]
        return RECIPES / f"pacs_{name}.yaml", changed


def ucdr(*words: object) -> None:
    """One command in a process of its own, on one core."""
    command = [str(Path(sys.executable).with_name("ucdr")), *map(str, words)]
    # Ray's workers, which decode, would else wait for the other process's training.
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "RAY_worker_niceness": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")


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
            who = ["--query", job.query, "--gallery", job.galleries]
            if not job.catalog.exists():
                setting = ["--setting", job.setting, "--seed", job.seed]
                ucdr("split", catalog, "--out", job.catalog, *who, *setting)
        with ThreadPoolExecutor(2) as pool:
            results = pool.map(lambda job: job.run(weights, QUICK if quick else []), jobs)
            found = {}
            for job, result in zip(jobs, results, strict=True):
                found[job] = Row.of(job.setting, job.task, job.seed, job.method, result)
                done = f"{len(found)}/{len(jobs)} {job.catalog.name} {job.method}"
                print(f"{done}: map@all {found[job].map:.4f}", file=sys.stderr)
        keys |= show(list(found.values()))
    keys |= cost(*(("random:resnet-mini", 64) if quick else ("random:resnet50", 224)), quick)
    if json_file is not None:
        write_json(json_file, keys)


def ingested(images: str, data: Path, work: Path) -> Path:
    """The catalog of all images whose categories serve."""
    catalog = work / "catalog"
    if not (catalog / "manifest.json").exists():
        coherent = ["--classes", Path(__file__).with_name("emoji_categories.txt")]
        which = ["--expect", "pacs"] if images == "pacs" else coherent
        call("ingest", unpack(data, work), "--out", catalog, *which)
    return catalog


if __name__ == "__main__":
    typer.run(main)
