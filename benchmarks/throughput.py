"""Images through training: against plain torchrun, against a torch DataLoader, and evaluation against argsort.

train_vs_torchrun: images/s of two Ray Train workers as `ucdr train` starts them, against the same engine in two
processes of torchrun (gloo) with its images in memory. Both are alive together and take turns, an epoch each; the
median of the turns' ratios, without the first.

first_epoch_vs_dataloader: from JPEG to training batches, once. Decoding and shrinking on Ray Data into the object
store and a pass of the feed, against a DataLoader of two workers that does the same work. Ray's processes have their
modules loaded, as the process has that the DataLoader forks; before that it is first_epoch_cold_vs_dataloader.

later_epochs_vs_dataloader: the feed's batches from the second epoch on, against the same DataLoader.

evaluate_vs_argsort: see `benchmarks/evaluation.py`.

All are ours / theirs, in rate: above 1 ours is faster.

Example: python benchmarks/throughput.py --json throughput.json

Example: python benchmarks/throughput.py --images pacs    # a folder <domain>/<class>/<file> of real JPEGs
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Annotated

import numpy as np
import torch
import typer
from evaluation import compare_all
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from ucdr_ray.catalog import Catalog
from ucdr_ray.cli import run as ucdr
from ucdr_ray.config import RunConfig, load_config
from ucdr_ray.decoded import decode, spans
from ucdr_ray.drawings import ALIGNMENT
from ucdr_ray.engine import Metrics, Trainer
from ucdr_ray.feed import ResidentFeed
from ucdr_ray.files import read_json, write_json
from ucdr_ray.images import to_array
from ucdr_ray.run import Run

BATCH, SIDE = 64, 64


def draw_jpegs(folder: Path, count: int, size: int = 227) -> None:
    """`count` JPEGs of PACS's size in four domains: 256 different drawings, each again and again."""
    from matplotlib.image import imsave

    from ucdr_ray.drawings.generate import iterate
    from ucdr_ray.drawings.objects import OBJECTS

    for number, drawing in enumerate(iterate(16, size, objects=list(OBJECTS)[:4])):
        home = folder / drawing.style / drawing.object
        home.mkdir(parents=True, exist_ok=True)
        first = home / f"{drawing.index:03}-000.jpg"
        imsave(first, drawing.pixels, pil_kwargs={"quality": 90})
        for copy in range(1, len(range(number, count, 256))):
            # Bytes after a JPEG's end: each file is its own content, and as much work.
            first.with_name(f"{drawing.index:03}-{copy:03}.jpg").write_bytes(
                first.read_bytes() + bytes([copy])
            )


class Jpegs(Dataset[np.ndarray]):
    """What a DataLoader reads: the files themselves, decoded and shrunk as ours are."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        return to_array(self.files[index].read_bytes(), SIDE)


def images(folder: Path, catalog: Catalog, repeats: int) -> dict[str, float]:
    """Time the ways from JPEGs to batches, in turns."""
    from ucdr_ray.cluster import stream
    from ucdr_ray.cluster.session import start_ray

    start_ray()
    config = load_config(None, [f"data.size={SIDE}"])
    names, sizes = [d.name for d in catalog.domains], [d.images for d in catalog.domains]
    loader = DataLoader(
        Jpegs(sorted(p for p in folder.rglob("*") if p.is_file())), BATCH, shuffle=True, num_workers=2
    )
    feeds: list[ResidentFeed] = []

    def theirs() -> int:
        return sum(len(batch) for batch in loader)

    def first() -> int:
        feeds[:] = [
            ResidentFeed(stream.kept(stream.keep(catalog, names, config.data), sizes), BATCH // len(names), 0)
        ]
        return sum(len(batch.slot) for batch in feeds[0].sweep())

    def later() -> int:
        return sum(len(batch.slot) for batch in feeds[0].epoch(1))

    cold = _rate(first)
    rates = [(_rate(theirs), _rate(first), _rate(later)) for _ in range(repeats)]
    loader_rate, first_rate, later_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    return {
        "images": sum(sizes),
        "dataloader_images_per_s": loader_rate,
        "first_epoch_images_per_s": first_rate,
        "later_epochs_images_per_s": later_rate,
        "first_epoch_vs_dataloader": statistics.median(row[1] / row[0] for row in rates),
        "first_epoch_cold_vs_dataloader": cold / loader_rate,
        "later_epochs_vs_dataloader": statistics.median(row[2] / row[0] for row in rates),
    }


def _rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def paced(trainer: Trainer, folder: Path, side: str) -> None:
    """Train an epoch when `folder` holds a file that says so; leave its rate there."""

    def wait(epoch: int) -> None:
        while epoch <= trainer.epochs and not (folder / f"{side}-{epoch}").exists():
            time.sleep(0.01)

    def on_epoch(metrics: Metrics, trainer: Trainer) -> None:
        epoch = int(metrics["epoch"])
        if trainer.world.rank == 0:
            write_json(folder / f"{side}-{epoch}.json", metrics["images_per_s"])
        wait(epoch + 1)

    wait(1)
    trainer.run(None, on_epoch)


def recipe(turns: int) -> RunConfig:
    stages = ["method.stages.in_domain=0", "method.stages.cross_domain=0", f"method.stages.instance={turns}"]
    return load_config(ALIGNMENT, [*stages, "train.workers=2", "train.threads=1"])


def torchrun_worker(folder: Path, turns: int) -> None:
    """One process of torchrun."""
    torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    config = recipe(turns)
    arrays = {file.stem: np.load(file) for file in sorted(folder.glob("*.npy"))}
    rank, workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
    feed = ResidentFeed(list(arrays.values()), config.train.batch, config.train.seed, rank, workers)
    paced(Trainer(config, [(name, len(array)) for name, array in arrays.items()], feed), folder, "theirs")
    torch.distributed.destroy_process_group()


def train(catalog: Catalog, turns: int, folder: Path) -> dict[str, float]:
    """Two workers of ours and two of torchrun, alive together, an epoch at a time in turns."""
    from ucdr_ray.cluster import stream, workers
    from ucdr_ray.cluster.session import start_ray

    start_ray()
    config = recipe(turns)
    names = [domain.name for domain in catalog.domains]
    domains = [(name, catalog.domain(name).images) for name in names]
    pixels, resize = stream.stored_side(config.data), config.data.resize
    for name in names:
        np.save(folder / f"{name}.npy", decode(spans(catalog, name), pixels, resize))
    job = workers.Job(
        config, Run(folder), catalog.path.resolve(), domains, stream.keep(catalog, names, config.data)
    )

    def ours(job: workers.Job, rank: int, size: int) -> None:
        paced(Trainer(job.config, job.domains, workers.make_feed(job, rank, size)), job.run.path, "ours")

    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        __file__,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    torchrun = subprocess.Popen([*command, "--torchrun", str(folder), "--turns", str(turns)], env=environment)
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    training = Thread(target=workers.fit, args=(job, ours), daemon=True)
    training.start()
    alive = {"ours": training.is_alive, "theirs": lambda: torchrun.poll() is None}
    try:
        for turn in range(1, turns + 1):
            for side in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
                (folder / f"{side}-{turn}").touch()
                while not (result := folder / f"{side}-{turn}.json").exists():
                    if not alive[side]() and not result.exists():
                        raise SystemExit(f"{side} died; see above")
                    time.sleep(0.05)
                rates[side].append(read_json(result, "rate"))
        training.join()
        torchrun.wait()
    finally:
        torchrun.kill()
    ours_rates, their_rates = rates["ours"][1:], rates["theirs"][1:]
    return {
        "ray_train_images_per_s": statistics.median(ours_rates),
        "torchrun_images_per_s": statistics.median(their_rates),
        "train_vs_torchrun": statistics.median(a / b for a, b in zip(ours_rates, their_rates, strict=True)),
    }


def main(
    images_folder: Annotated[
        Path | None, typer.Option("--images", help="Real JPEGs, <domain>/<class>/<file>.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few images, few turns: a smoke figure.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
    torchrun: Annotated[Path | None, typer.Option(hidden=True)] = None,
    turns: Annotated[int, typer.Option(help="Epochs of each side in the comparison with torchrun.")] = 9,
) -> None:
    if torchrun is not None:
        torchrun_worker(torchrun, turns)
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = (images_folder or work / "images").resolve()
        if images_folder is None:
            draw_jpegs(folder, 1024 if quick else 8192)
        code = ucdr(["ingest", str(folder), "--out", str(work / "catalog")])
        if code:
            raise SystemExit(code)
        catalog = Catalog.open(work / "catalog")
        (work / "turns").mkdir()
        result = train(catalog, 4 if quick else turns, work / "turns")
        result |= images(folder, catalog, 1 if quick else 5)
    rows, repeats = (3_000, 1) if quick else (10_000, 3)
    evaluations = compare_all(rows, repeats).values()
    result["evaluate_vs_argsort"] = min(row["evaluate_vs_argsort"] for row in evaluations)
    show(result)
    if json_file is not None:
        write_json(json_file, result)


TARGETS = {
    "train_vs_torchrun": 0.95,
    "first_epoch_vs_dataloader": 0.6,
    "later_epochs_vs_dataloader": 5,
    "evaluate_vs_argsort": 5,
}


def show(result: dict[str, float]) -> None:
    title = f"throughput, {os.cpu_count()} cores, {result['images']:,} images"
    table = Table("", "ours / theirs", "wanted", title=title)
    for name, value in result.items():
        if "_vs_" in name:
            table.add_row(name, f"{value:.2f}", f"≥ {TARGETS[name]}" if name in TARGETS else "")
    Console().print(table)
    Console().print(
        ", ".join(f"{name} {value:,.0f}" for name, value in result.items() if name.endswith("per_s"))
    )


if __name__ == "__main__":
    typer.run(main)
