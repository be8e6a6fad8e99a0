"""What UEM's neighbours cost: prototypes of two large domains, and SN2M against a full bank, as a share of a step.

    python benchmarks/uem_cost.py
    python benchmarks/uem_cost.py --backbone weights/mobilenet_v1_025_imagenet --size 96

Prototypes are made as at the beginning of an epoch that seeks their number: samples of both banks, the elbow, k-means,
matching and merging; each size in a process of its own, whose largest memory is read. Time and memory are those of two
threads. The step is CDSM's (Eq. 18), forward and backward, of 64 images of each domain.
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ucdr_ray.config import load_config
from ucdr_ray.engine import build_encoder
from ucdr_ray.files import write_json
from ucdr_ray.method_settings import UemConfig
from ucdr_ray.methods.base import Batch
from ucdr_ray.methods.uem import Uem
from ucdr_ray.neighbors.matching import unify
from ucdr_ray.neighbors.memory import LocalMemory
from ucdr_ray.neighbors.prototypes import SAMPLED, Prototypes
from ucdr_ray.world import World

RECIPE = Path(__file__).parents[1] / "jobs" / "configs" / "uem_office_home.yaml"
GROUPS, DIM = 65, 128  # categories, as Office-Home has them
BLOCK = 10_000
DOMAINS = ["a", "b"]


def bank(rows: int, seed: int = 0) -> LocalMemory:
    """Two domains of unit rows around the same 65 directions, in two places; the second has five of its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(GROUPS + 5, DIM, generator=generator)
    memory = LocalMemory([(name, rows) for name in DOMAINS], DIM)
    for number in range(2):
        for slots in torch.arange(rows).split(
            BLOCK
        ):  # so that making it takes less memory than what is measured
            group = torch.randint(5 * number, GROUPS + 5 * number, (len(slots),), generator=generator)
            noise = torch.randn(len(slots), DIM, generator=generator)
            keys = torch.nn.functional.normalize(centres[group] + 0.7 * noise + 0.3 * number, dim=1)
            memory.push(torch.full_like(slots, number), slots, keys)
    return memory


def prototypes(rows: int) -> dict[str, float]:
    """Seconds of all that is done, clusters found, the process's largest memory in MB, and that with the bank alone."""
    memory = bank(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    found = [Prototypes.fit(*memory.drawn(number, 0), 0) for number in range(2)]
    unified = unify(*found)
    return {
        "seconds": time.perf_counter() - started,
        "clusters": len(found[0]),
        "merged": int(unified.merged.sum()),
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mb": before,
    }


def apart(rows: int) -> dict[str, float]:
    """`prototypes` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--rows", str(rows)], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def share(backbone: str, size: int, rows: int, batch: int, rounds: int) -> tuple[float, float]:
    """Seconds of a step of CDSM against 2 × `rows` rows, and of its L_SN2M alone: in turn, medians."""
    settings = [f"model.backbone={backbone}", f"data.size={size}", "data.stored_size=null"]
    config = load_config(RECIPE, [*settings, "train.device=cpu", "train.precision=float32"])
    assert isinstance(config.method, UemConfig)
    method = Uem(build_encoder(config).train(), config.method, DOMAINS, torch.float32, 0, World())
    memory = bank(rows)
    method.begin_epoch(config.method.stages.idse, memory)  # the epoch in which CDSM begins
    stage = method.stages()[1]
    pixels = torch.rand(2 * batch, 3, size, size)
    domain = torch.arange(2 * batch) % 2
    some = Batch(pixels, pixels, domain, torch.arange(2 * batch) // 2, 2 * batch)
    found: dict[str, list[float]] = {"step": [], "sn2m": []}
    for _ in range(rounds):
        started = time.perf_counter()
        method.step(some, stage, memory).total.backward()
        found["step"].append(time.perf_counter() - started)
        z = torch.nn.functional.normalize(torch.randn(2 * batch, DIM), dim=1).requires_grad_()
        started = time.perf_counter()
        method.match(z, some, memory)[0].backward()
        found["sn2m"].append(time.perf_counter() - started)
    return statistics.median(found["step"]), statistics.median(found["sn2m"])


def cost(backbone: str, size: int, quick: bool) -> dict[str, float]:
    """Everything, printed; flat keys -> numbers."""
    console, keys = Console(width=120), dict[str, float]()
    sizes = (5_000, 10_000) if quick else (15_000, 60_000, 100_000, 400_000)
    table = Table("rows of each domain", "seconds", "peak MB", "of which the bank", "clusters", "merged")
    seconds = []
    for rows in sizes:
        runs = [apart(rows) for _ in range(1 if quick else 3)]
        found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        table.add_row(
            f"{rows:,}", f"{found['seconds']:.1f}", f"{found['mb']:.0f}", f"{found['before_mb']:.0f}",
            f"{found['clusters']:.0f}", f"{found['merged']:.0f}",
        )  # fmt: skip
        seconds.append(found["seconds"])
        if rows in (10_000, 100_000):
            keys |= {f"prototypes_{what}": found[what] for what in ("seconds", "mb")}
    growth = math.log(seconds[1] / seconds[0]) / math.log(sizes[1] / sizes[0])
    keys |= {"prototypes_growth": growth, "prototypes_mb_400k": found["mb"]}
    console.print(table)
    console.print(
        f"time grows as rows^{growth:.2f} up to {SAMPLED:,} rows of a domain; of more rows, so many are drawn"
    )

    torch.set_num_threads(2)
    rows = 5_000 if quick else 50_000
    step, sn2m = share(backbone, size, rows, 64, 3 if quick else 9)
    keys |= {"step_seconds": step, "sn2m_seconds": sn2m, "sn2m_share": sn2m / step}
    console.print(
        f"SN2M against 2 × {rows:,} rows: {100 * sn2m / step:.1f} % of a step of CDSM ({sn2m:.3f} of {step:.3f} s; "
        f"{backbone}, {size} px, 2 × 64 images)"
    )
    return keys


def main(
    backbone: Annotated[str, typer.Option(help="Backbone of the step.")] = "random:resnet50",
    size: Annotated[int, typer.Option(help="Side in pixels.")] = 224,
    rows: Annotated[int | None, typer.Option(hidden=True)] = None,
    quick: Annotated[bool, typer.Option(help="Small: a smoke figure.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    if rows is not None:
        torch.set_num_threads(2)
        print(json.dumps(prototypes(rows)))
        return
    if quick:
        backbone, size = "random:resnet-mini", 64
    keys = cost(backbone, size, quick)
    if json_file is not None:
        write_json(json_file, keys)


if __name__ == "__main__":
    typer.run(main)
