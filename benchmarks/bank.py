"""The sharded memory bank against the one in process: what it adds to a training step.

Two workers (processes, gloo) and some shards take the same steps with each kind of memory, in turns: the rows of a step
are announced, the step's compute is done, keys are pushed, and all candidates of the step are asked for. Every answer
of the sharded bank is compared with the local one's: neighbours and keys must be equal to the bit.

The compute is slept, 0.1 s, what 128 images of ResNet-50 take on one large GPU, query and key encoder together; and
then it is real: MobileNetV1-0.25 forward and backward and its momentum twin forward, 64 images of 96 px on a core of
each worker. On a machine with as many cores as workers the shards then have none of their own.

sharded_step_overhead: (sharded - local) / local, medians of whole steps; `_mobilenet`: of those with the real compute.
push_ms, query_ms: the bank's share of a worker's step in which it waits: announcing and pushing (with the exchange of
keys, which the local one needs too), and asking for candidates.

Example: python benchmarks/bank.py --json bank.json
"""

import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import ray
import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.table import Table
from transformers import MobileNetV1Config, MobileNetV1Model

from ucdr_ray.cluster.bank import BankSpec
from ucdr_ray.cluster.memory import ShardedMemory
from ucdr_ray.cluster.session import start_ray
from ucdr_ray.cluster.shards import Shards, start_shards
from ucdr_ray.files import write_json
from ucdr_ray.neighbors.memory import LocalMemory, Memory, Neighbourhood
from ucdr_ray.world import World

WORKERS, DIM, BATCH, K = 2, 128, 64, 50
KINDS = ("local", "sharded, copies", "sharded, no copies")
Medians = dict[str, dict[str, float]]  # kind of memory -> part of a step -> seconds


def rows(count: int, seed: int) -> torch.Tensor:
    """Unit rows in loose groups, so that there are mutual neighbours."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(count // 20 + 1, DIM, generator=torch.Generator().manual_seed(0))
    keys = centres[torch.randint(len(centres), (count,), generator=draw)]
    return torch.nn.functional.normalize(keys + 0.7 * torch.randn(count, DIM, generator=draw), dim=1)


class Worker:
    """One of two training workers, with each kind of memory."""

    def __init__(self, rank: int, folder: Path, size: int, shards: list[Shards]) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS)
        self.rank, self.size, world, device = rank, size, World(), torch.device("cpu")
        shape = MobileNetV1Config(depth_multiplier=0.25, image_size=96)
        self.encoder, self.twin = MobileNetV1Model(shape), MobileNetV1Model(shape)
        self.images = torch.rand(BATCH, 3, 96, 96)
        names = ["photo", "sketch"]
        local = LocalMemory([(name, size) for name in names], DIM, 65_536, world.exchange)
        self.memories: dict[str, Memory] = {"local": local}
        for kind, own, copy in zip(KINDS[1:], shards, (True, False), strict=True):
            self.memories[kind] = ShardedMemory(own, names, world, 65_536, 0, device, copy)
        for memory in self.memories.values():
            memory.load(folder, [], 0)
            mine = torch.arange(size)[rank::WORKERS]
            for domain in range(2):
                memory.push(torch.full_like(mine, domain), mine, rows(size, domain + 1)[mine])

    def search(self, kind: str) -> tuple[dict[str, float], float]:
        """Report, and seconds."""
        started = time.perf_counter()
        return self.memories[kind].rebuild(Neighbourhood(K, K)), time.perf_counter() - started

    def compute(self, seconds: float) -> None:
        """A step's: slept, or for 0 seconds real."""
        if seconds > 0:
            time.sleep(seconds)
            return
        self.encoder(self.images).pooler_output.square().mean().backward()
        self.encoder.zero_grad()
        with torch.no_grad():
            self.twin(self.images)

    def steps(self, kind: str, count: int, seconds: float, seed: int) -> dict[str, Any]:
        """Times of the steps and of their parts, and a checksum of all candidates."""
        memory, seen = self.memories[kind], hashlib.sha256()
        times: dict[str, list[float]] = {"step": [], "push": [], "query": []}
        for step in range(count):
            draw = torch.Generator().manual_seed(1_000 * seed + step)
            each = BATCH // WORKERS
            slot = torch.randint(self.size, (WORKERS, 2 * each), generator=draw)[self.rank]
            domain = torch.arange(2).repeat_interleave(each)
            key = rows(2 * each, 1_000 * seed + 2 * step + self.rank)
            dist.barrier()
            started = time.perf_counter()
            memory.expect(domain, slot)
            told = time.perf_counter()
            self.compute(seconds)
            computed = time.perf_counter()
            memory.push(domain, slot, key)
            pushed = time.perf_counter()
            found = [memory.candidates(a, slot[domain == a], b) for a in range(2) for b in range(2)]
            ended = time.perf_counter()
            for candidates in found:
                for tensor in (candidates.keys, candidates.positive, candidates.own):
                    seen.update(tensor.contiguous().numpy().tobytes())
            times["step"].append(ended - started)
            times["push"].append(told - started + pushed - computed)
            times["query"].append(ended - pushed)
        return times | {"seen": seen.hexdigest()}


def measured(both: Callable[..., list[Any]], rounds: int, count: int, seconds: float) -> Medians:
    """Steps of each kind in turns; medians over those of the slower worker."""
    times: dict[str, dict[str, list[float]]] = {kind: {"step": [], "push": [], "query": []} for kind in KINDS}
    for round_ in range(rounds):
        seen = []
        for kind in KINDS:
            said = both("steps", kind, count, seconds, round_)
            for part in times[kind]:
                times[kind][part] += [max(pair) for pair in zip(*(s[part] for s in said), strict=True)]
            seen.append([s["seen"] for s in said])
        assert all(other == seen[0] for other in seen), "sharded and local banks differ"
    return {kind: {part: statistics.median(t) for part, t in times[kind].items()} for kind in KINDS}


def show(middle: Medians, searched: dict[str, float], what: str, shards: int, real: bool) -> None:
    compute = "MobileNetV1-0.25" if real else "slept"
    table = Table(title=f"{WORKERS} workers x {shards} shards, {what}, {compute}, ms")
    for column in ("memory", "search, s", "step", "push", "query", "over local"):
        table.add_column(column, justify="left" if column == "memory" else "right")
    for kind in KINDS:
        parts = [f"{1e3 * middle[kind][part]:.1f}" for part in ("step", "push", "query")]
        over = f"{middle[kind]['step'] / middle['local']['step'] - 1:+.1%}"
        table.add_row(kind, f"{searched[kind]:.1f}", *parts, over)
    Console().print(table)


def main(
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About a minute; a smoke figure.")] = False,
    size: Annotated[int, typer.Option(help="Rows of each of two domains.")] = 20_000,
    seconds: Annotated[float, typer.Option(help="Compute of a step, slept.")] = 0.1,
    shards: Annotated[int, typer.Option(help="Shards of the bank.")] = 2,
) -> None:
    size, rounds, count = (4_000, 3, 10) if quick else (size, 9, 20)
    start_ray(num_cpus=4)
    with tempfile.TemporaryDirectory() as folder:
        banks = []
        for number in range(2):
            run = Path(folder) / str(number)
            run.mkdir()
            banks.append(start_shards(BankSpec([size, size], DIM, shards, 0.0, run, 1), 60.0))
        kind_of_actor = ray.remote(Worker)
        workers = [
            kind_of_actor.options(num_cpus=1).remote(rank, Path(folder), size, banks)
            for rank in range(WORKERS)
        ]

        def both(method: str, *arguments: Any) -> list[Any]:
            return ray.get([getattr(worker, method).remote(*arguments) for worker in workers])

        found = {kind: both("search", kind)[0] for kind in KINDS}
        assert len({str(sorted(report.items())) for report, _ in found.values()}) == 1
        figures: dict[str, float] = {}
        for name, computed in (("", seconds), ("_mobilenet", 0.0)):
            middle = measured(both, rounds, count, computed)
            searched = {kind: seconds for kind, (_, seconds) in found.items()}
            show(
                middle,
                searched,
                f"2 x {size:,} rows of {DIM}, {rounds * count} steps each",
                shards,
                bool(name),
            )
            local, copies, remote = (middle[kind] for kind in KINDS)
            figures |= {
                f"sharded_step_overhead{name}": copies["step"] / local["step"] - 1,
                f"sharded_step_overhead_without_copies{name}": remote["step"] / local["step"] - 1,
                f"push_ms{name}": 1e3 * copies["push"],
                f"query_ms{name}": 1e3 * copies["query"],
                f"push_ms_without_copies{name}": 1e3 * remote["push"],
                f"query_ms_without_copies{name}": 1e3 * remote["query"],
                f"local_push_ms{name}": 1e3 * local["push"],
                f"local_query_ms{name}": 1e3 * local["query"],
                f"local_step_ms{name}": 1e3 * local["step"],
            }
    if json is not None:
        write_json(json, figures)


if __name__ == "__main__":
    typer.run(main)
