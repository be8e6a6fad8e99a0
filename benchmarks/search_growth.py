"""How latency and memory grow with rows, and what searching by bits saves."""

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
from made_index import DIM, made_rows, small_index, write_embeddings
from rich.console import Console
from rich.table import Table
from search_child import in_a_process

from ucdr_ray.index import kinds
from ucdr_ray.index.build import build
from ucdr_ray.index.kinds import Kind

KIND: Kind = "ivf-pq"
RECALL, DOMAINS = 0.95, 6
MEMORY = 4_000_000_000  # of a replica, where the service's settings say nothing
BITS = 64


def growth(sizes: Sequence[int], work: Path, console: Console) -> dict[str, float]:
    """An index of each size; slopes are exponents of the number of rows."""
    table = Table(
        "rows", "opened, s", "memory, MB", "ms a query", title=f"{KIND}, recall {RECALL}, all domains"
    )
    found: dict[str, float] = {}
    rows, small = [], small_index(work / "small")
    for size in sizes:
        folder = work / str(size)
        if not (folder / "index" / "CURRENT").exists():
            embeddings, catalog = write_embeddings(folder, made_rows(size, DOMAINS))
            build(embeddings, catalog, folder / "index", KIND, recall=RECALL)
            for done in ("embeddings", "catalog"):  # as large as the index
                shutil.rmtree(folder / done)
        figures = in_a_process(folder / "index", small)
        rows.append((size, figures["query_ms"], figures["bytes"]))
        found |= {f"growth.{size}.{name}": value for name, value in figures.items()}
        table.add_row(
            f"{size:,}",
            f"{figures['open_s']:.1f}",
            f"{figures['bytes'] / 1e6:,.0f}",
            f"{figures['query_ms']:.2f}",
        )
    logs = np.log(np.array(rows, float))
    for name, column in (("latency", 1), ("memory", 2)):
        found[f"growth.{name}_slope"] = float(np.polyfit(logs[:, 0], logs[:, column], 1)[0])
    size, _, taken = rows[-1]
    found["growth.rows_in_a_replica"] = MEMORY / (taken / size)
    exact = MEMORY / (taken / size + 4 * DIM - DIM / 4)  # the vectors in place of their codes
    table.caption = (
        f"latency ~ rows^{found['growth.latency_slope']:.2f}, memory ~ rows^{found['growth.memory_slope']:.2f}; "
        f"in {MEMORY / 1e9:.0f} GB: {found['growth.rows_in_a_replica'] / 1e6:.0f} million rows, "
        f"compared exactly {exact / 1e6:.1f} million"
    )
    console.print(table)
    return found


def binary(rows: int, console: Console) -> dict[str, float]:
    """Hash codes, by the bits that differ and as float numbers; the ten nearest of each query, one thread."""
    rng = np.random.default_rng(0)
    codes = np.where(rng.integers(0, 2, (rows, BITS), dtype=np.int8), 1, -1).astype(np.float32)
    queries = codes[:200] * np.where(rng.random((200, BITS)) < 0.1, -1, 1).astype(np.float32)
    bits = kinds.untaught("binary", BITS)
    kinds.add(bits, codes)
    flat = faiss.IndexFlatIP(BITS)
    flat.add(codes)
    by_bits = kinds.candidates("binary", bits, queries, kinds.K, 1)
    scores, _ = flat.search(queries, kinds.K)
    assert np.array_equal(-np.sort(-np.einsum("qd,qkd->qk", queries, codes[by_bits])), scores)  # lose nothing
    took = {
        "binary.query_ms": each(lambda query: kinds.candidates("binary", bits, query, kinds.K, 1), queries),
        "binary.float_query_ms": each(lambda query: flat.search(query, kinds.K), queries),
    }
    saved = took["binary.float_query_ms"] / took["binary.query_ms"]
    console.print(
        f"{rows:,} codes of {BITS} bits: {took['binary.query_ms']:.2f} ms a query, {rows * BITS / 8e6:.0f} MB; "
        f"as float {took['binary.float_query_ms']:.2f} ms, {rows * BITS * 4 / 1e6:.0f} MB: {saved:.1f} × as long"
    )
    return took | {"binary_vs_float": saved}


def each(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """Median milliseconds of a query."""
    times = []
    for query in queries:
        start = time.perf_counter()
        search(query[None])
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
