"""What `ucdr index build --kind auto` makes of a cap of memory, beside autofaiss; and the estimate beside the truth."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from made_index import small_index, write_embeddings
from rich.console import Console
from rich.table import Table
from search_child import in_a_process

from ucdr_ray.index.build import build
from ucdr_ray.index.kinds import APPROXIMATE, K, Kind
from ucdr_ray.index.plan import estimate, shown_memory
from ucdr_ray.index.search import Index
from ucdr_ray.index.source import Embedded

QUERIES = 600
SHARE = 0.4  # of the vectors' bytes: the cap


def built_beside_autofaiss(
    vectors: dict[str, np.ndarray], work: Path, peers: Path | None, console: Console
) -> dict[str, float]:
    """Each takes all cores. Ours writes ids, sources, thumbnails and checksums too, and measures its recalls."""
    work.mkdir(parents=True, exist_ok=True)
    flat = np.concatenate([vectors[name] for name in sorted(vectors)])
    cap = f"{SHARE * flat.nbytes / 1e6:.0f}MB"
    rng = np.random.default_rng(1)
    queries = flat[rng.choice(len(flat), QUERIES, replace=False)]
    queries += rng.normal(size=queries.shape, scale=0.1 / flat.shape[1] ** 0.5).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    tenths = -np.partition(-(queries @ flat.T), K - 1, axis=1)[:, K - 1 : K]
    write_embeddings(work, vectors)
    start = time.perf_counter()
    ucdr = Path(sys.executable).with_name("ucdr")
    words = ["index", "build", "embeddings", "--catalog", "catalog", "--out", "index", "--memory", cap]
    subprocess.run([ucdr, *words], check=True, cwd=work)
    found = {"build.seconds": time.perf_counter() - start}
    index, times, scores = Index.open(work / "index"), [], []
    index.search(queries[:1], k=K)
    for query in queries:
        start = time.perf_counter()
        scores.append([hit.score for hit in index.search(query[None], k=K)[0].hits])
        times.append(time.perf_counter() - start)
    found["build.recall"] = float((np.array(scores) >= tenths - 1e-5).sum(axis=1).mean()) / K
    found["build.query_ms"] = 1e3 * statistics.median(times)
    table = Table(
        "", "kind", "seconds", "recall at 10", "ms a query", title=f"{len(flat):,} rows within {cap}"
    )
    table.add_row("ucdr index build", index.manifest.kind, *shown(found, "build"))
    if peers is not None:
        np.save(work / "rows.npy", flat)
        np.save(work / "queries.npy", queries)
        start = time.perf_counter()
        said = subprocess.run(
            [peers, Path(__file__).with_name("search_peers.py"), "autofaiss", work, cap],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        theirs = json.loads(said.stdout.splitlines()[-1])
        rows = np.load(work / "found.npy")
        right = np.einsum("qd,qkd->qk", queries, flat[rows]) >= tenths - 1e-5
        found |= {
            "autofaiss.seconds": theirs["build_s"],
            "autofaiss.recall": float((right & (rows >= 0)).sum(axis=1).mean()) / K,
            "autofaiss.query_ms": theirs["query_ms"],
            "build_vs_autofaiss": found["build.seconds"] / theirs["build_s"],
        }
        kind = json.loads((work / "autofaiss.json").read_text())["index_key"]
        table.add_row("autofaiss", kind, *shown(found, "autofaiss"))
    console.print(table)
    return found


def shown(found: dict[str, float], who: str) -> list[str]:
    return [
        f"{found[f'{who}.seconds']:.0f}",
        f"{found[f'{who}.recall']:.3f}",
        f"{found[f'{who}.query_ms']:.2f}",
    ]


def estimates_beside_truth(vectors: dict[str, np.ndarray], work: Path, console: Console) -> dict[str, float]:
    """Memory of a process that opened an index and was asked, without what it took before."""
    embeddings, catalog = write_embeddings(work, vectors)
    count = sum(map(len, vectors.values()))
    small = small_index(work / "small")
    table = Table("kind", "estimate, MB", "measured, MB", "error", title=f"{count:,} rows, memory")
    found: dict[str, float] = {}
    worst, around = 0.0, shown_memory(Embedded(embeddings.path, catalog.path))
    every: tuple[Kind, ...] = ("exact", *APPROXIMATE)
    for kind in every:
        index = work / f"index-{kind}"
        if not (index / "CURRENT").exists():
            build(embeddings, catalog, index, kind, recall=0.01)  # no time for good answers
        stated = estimate(kind, [len(rows) for rows in vectors.values()], embeddings.dim, around).memory
        real = in_a_process(index, small)["bytes"]
        worst = max(worst, abs(stated / real - 1))
        table.add_row(kind, f"{stated / 1e6:.1f}", f"{real / 1e6:.1f}", f"{stated / real - 1:+.1%}")
        found |= {f"memory.{kind}.estimate": float(stated), f"memory.{kind}.measured": real}
    console.print(table)
    return found | {"estimate_error": worst}
