"""The service over HTTP, in both shapes, beside bare FAISS and bare FastAPI with the same index.

A closed loop of clients in a process of their own sends vectors as JSON and reads the answers (k = 10): p50 with one
client, requests a second with 16; `search:batch` with 256 vectors a call. Shapes take turns; figures are medians.

`faiss`: nothing but FAISS's calls for the same candidates of each domain, with one thread. `index`: the index searched
in this process, no HTTP. `fastapi`: FastAPI and uvicorn around the same search, one process, no Ray, without limits,
checks, batches or measures.
CPU a request: user and system time of each process of the service over the 16-client phase, by its share of requests.

Example: python benchmarks/service.py --json service.json
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from closed_loop import BATCH, K, load
from made_index import DIM, made_rows, write_embeddings
from rich.console import Console
from rich.table import Table

from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.files import write_json
from ucdr_ray.index import kinds
from ucdr_ray.index.build import build
from ucdr_ray.index.search import Index
from ucdr_ray.index.shard import one_thread

DOMAINS = 4
AT_ONCE = 64  # queries that the service searches together
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="20,000 rows, short phases: a smoke figure")
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--kind", default="hnsw", help="of index")
    options.add_argument("--seconds", type=float, default=8.0, help="of each phase")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--work", type=Path, help="where the index is kept for the next time")
    options.add_argument("--only", help="shapes, of: whole,sharded,fastapi")
    options.add_argument("--json", type=Path)
    arguments = options.parse_args()
    if arguments.quick:
        arguments.rows, arguments.seconds, arguments.repeats = 20_000, 2.0, 1
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, arguments.work or Path(folder))


def measure(arguments: argparse.Namespace, work: Path) -> None:
    index = made(work, arguments.rows, arguments.kind)
    rng = np.random.default_rng(1)
    opened = Index.open(index)
    queries = np.concatenate(
        [
            opened.domain(name).vectors(rng.choice(arguments.rows // DOMAINS, 250))
            for name in opened.manifest.domains
        ]
    )
    queries += rng.normal(size=queries.shape, scale=0.3 / DIM**0.5).astype(np.float32)
    rng.shuffle(queries)
    found: dict[str, float] = {
        "rows": arguments.rows,
        "recall": min((pair.recall for pair in opened.manifest.recalls), default=1.0),
        **timed("faiss", by_faiss_alone(opened), queries),
        **timed("index", lambda some: opened.search(some, k=K), queries),
    }
    shapes = {
        "fastapi": [sys.executable, __file__, "fastapi", str(index)],
        "whole": ["ucdr", "serve", str(index), "--shape", "whole"],
        "sharded": ["ucdr", "serve", str(index), "--shape", "sharded", "--parts", str(DOMAINS)],
    }
    chosen = arguments.only.split(",") if arguments.only else list(shapes)
    for shape in chosen:
        with running(shapes[shape]) as port:
            found |= {f"{shape}.{name}": value for name, value in phases(port, queries, arguments).items()}
            if shape != "fastapi":
                found |= {
                    f"{shape}.cpu_ms.{name}": value for name, value in cpu(port, queries, arguments).items()
                }
        show(found)
    found["batch.qps"] = found.get("whole.batch_qps", 0.0)
    if arguments.json:
        write_json(arguments.json, found)


def made(work: Path, rows: int, kind: str) -> Path:
    """The index, kept from an earlier time if it was."""
    index = work / f"index-{kind}"
    if not (index / "CURRENT").exists():
        if not (work / "embeddings" / "manifest.json").exists():
            write_embeddings(work, made_rows(rows, DOMAINS))
        build(Embeddings.open(work / "embeddings"), Catalog.open(work / "catalog"), index, kind, recall=0.95)  # type: ignore[arg-type]
    return index


def by_faiss_alone(index: Index) -> Callable[[np.ndarray], object]:
    """Candidates of every shard, as searching finds them, without scores, order, ids and sources."""
    calls = []
    for entry in index.manifest.shards:
        if (made := entry.approximate) is None:
            flat = faiss.read_index(str(index.folder / entry.vectors.file), faiss.IO_FLAG_MMAP_IFC)
            calls.append(partial(flat.search, k=K))
        else:
            shortcut = kinds.read(index.folder / made.file, made.kind, entry.rows, index.manifest.dim)
            calls.append(
                partial(kinds.candidates, made.kind, shortcut, fetch=kinds.K * made.fetch, effort=made.effort)
            )
    return lambda queries: [call(queries) for call in calls]


def timed(name: str, search: Callable[[np.ndarray], object], queries: np.ndarray) -> dict[str, float]:
    """One query at a time, and many as batches of the service are; medians."""
    one_thread()
    one, many = [], []
    search(queries)
    for query in queries[:300]:
        start = time.perf_counter()
        search(query[None])
        one.append(time.perf_counter() - start)
    for _ in range(5):
        start = time.perf_counter()
        for first in range(0, len(queries), AT_ONCE):
            search(queries[first : first + AT_ONCE])
        many.append(time.perf_counter() - start)
    return {
        f"{name}.p50_ms": 1e3 * statistics.median(one),
        f"{name}.qps": len(queries) / statistics.median(many),
    }


def phases(port: int, queries: np.ndarray, arguments: argparse.Namespace) -> dict[str, float]:
    """p50 with one client, requests a second with 16, queries a second in batches with 2."""
    repeats = {"p50_ms": [], "p99_ms": [], "rps16": [], "p50_ms_16": [], "batch_qps": []}  # type: dict[str, list[float]]
    load(port, queries, 4, 2.0, False)
    for _ in range(arguments.repeats):
        one = load(port, queries, 1, arguments.seconds, False)
        repeats["p50_ms"].append(1e3 * float(np.percentile(one, 50)))
        repeats["p99_ms"].append(1e3 * float(np.percentile(one, 99)))
        many = load(port, queries, 16, arguments.seconds, False)
        repeats["rps16"].append(len(many) / arguments.seconds)
        repeats["p50_ms_16"].append(1e3 * float(np.percentile(many, 50)))
        calls = load(port, queries, 2, arguments.seconds, True)
        repeats["batch_qps"].append(BATCH * len(calls) / arguments.seconds)
    return {name: statistics.median(values) for name, values in repeats.items()}


def cpu(port: int, queries: np.ndarray, arguments: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of processor time a request, by process."""
    before = processes()
    requests = len(load(port, queries, 16, arguments.seconds, False))
    after = processes()
    spent: dict[str, float] = {}
    for pid, (name, ticks) in after.items():
        if pid in before and (used := ticks - before[pid][1]):
            spent[name] = spent.get(name, 0.0) + 1e3 * used / TICK / requests
    return {name: value for name, value in spent.items() if value > 0.005}


def processes() -> dict[int, tuple[str, int]]:
    """Names and processor time, in ticks, of what belongs to the service."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            text = (folder / "stat").read_text()
        except OSError:
            continue
        comm = text[text.index("(") + 1 : text.rindex(")")]
        fields = text[text.rindex(")") + 2 :].split()
        name = None
        if comm == "haproxy":
            name = "haproxy"
        elif command.startswith("ray::ServeReplica:"):
            name = command.split(":")[4].split(".")[0].split(" ")[0]
        elif command.startswith("ray::") or comm in ("raylet", "gcs_server"):
            name = "ray"
        if name:
            found[int(folder.name)] = (name, int(fields[11]) + int(fields[12]))
    return found


@contextmanager
def running(command: list[str]) -> Iterator[int]:
    """A service in a process of its own, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name(command[0])) if command[0] == "ucdr" else command[0]
    process = subprocess.Popen(
        [program, *command[1:], "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for text in process.stdout:
            if "serving" in text:
                break
        else:
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def fastapi(index: Path, port: int) -> None:
    """The bare peer."""
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from pydantic_core import from_json, to_json

    one_thread()
    opened = Index.open(index)
    app = FastAPI()

    @app.post("/v1/search")
    async def search(request: Request) -> Response:
        asked = from_json(await request.body())
        found = opened.search(np.array([asked["vector"]]), k=asked["k"])[0]
        hits = [{"id": hit.id, "domain": hit.domain, "score": hit.score} for hit in found.hits]
        return Response(to_json({"hits": hits}), media_type="application/json")

    @app.post("/v1/search:batch")
    async def batch(request: Request) -> Response:
        asked = from_json(await request.body())
        answers = opened.search(np.array(asked["vectors"]), k=asked["k"])
        hits = [
            [{"id": hit.id, "domain": hit.domain, "score": hit.score} for hit in found.hits]
            for found in answers
        ]
        return Response(to_json({"hits": hits}), media_type="application/json")

    opened.search(np.ones((1, DIM)), k=K)
    print("serving", flush=True)
    uvicorn.run(app, port=port, log_level="error")


def show(found: dict[str, float]) -> None:
    table = Table(
        "", "p50 ms, 1 client", "p99", "requests/s, 16", "p50 ms, 16", "batch queries/s", "CPU ms a request"
    )
    for name in ("faiss", "index"):
        table.add_row(
            f"{name}, no HTTP", f"{found[f'{name}.p50_ms']:.2f}", "", "", "", f"{found[f'{name}.qps']:,.0f}"
        )
    for shape in ("fastapi", "whole", "sharded"):
        if f"{shape}.p50_ms" in found:
            names = ("p50_ms", "p99_ms", "rps16", "p50_ms_16", "batch_qps")
            spent = {
                name.rsplit(".", 1)[1]: value
                for name, value in found.items()
                if name.startswith(f"{shape}.cpu_ms.")
            }
            table.add_row(
                shape,
                *(f"{found[f'{shape}.{name}']:,.2f}" for name in names),
                ", ".join(f"{name} {value:.2f}" for name, value in sorted(spent.items())),
            )
    Console(width=150).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["fastapi"]:
        fastapi(Path(sys.argv[2]), int(sys.argv[4]))
    else:
        main()
