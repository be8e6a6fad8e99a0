"""Neighbour search: exact against the bare products and against argsort, approximate against exact and FAISS.

exact_vs_matmul: mutual 50-NN inside one set (search, lists, mutual filter, CSR) over the bare products that it needs:
half of rows x rows, in the same tiles, on the same threads. `exact_vs_full_matmul`: over all of rows x rows.

speedup_vs_argsort: mutual neighbours across two sets by `torch.argsort` of the whole score matrix, both ways, over the
time of ours; `speedup_vs_topk` by `torch.topk`.

approx_speedup: exact over approximate, which measures its recall in that time. approx_recall: share of the exact mutual
pairs that the approximate graph has, whole graphs compared; approx_estimate is what the search itself measured, and
approx_precision the share of its pairs that are exact. FAISS indices are set to the same recall; their time is that of
building them and of the whole graph.

Times are medians of repeats in turns, in one process (FAISS: once); `peak_rss_gb` is that of a process that does the
exact search alone.

Rows: real ones (--data) are reduced to 128 dimensions by their principal directions, made unit rows again, and repeated
up to the size wanted, each time with fresh noise as long as 0.7 of the distance to the row's nearest neighbour: copies
are then about as far apart as a row and its nearest neighbour. Without --data: Gaussian clusters, 12 directions each.

Example: python benchmarks/neighbors.py --data pacs.npy --data embeddings --json neighbors.json
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from ucdr_ray.embeddings import Embeddings
from ucdr_ray.files import write_json
from ucdr_ray.neighbors.approximate import Clustered, approximate_graphs
from ucdr_ray.neighbors.mutual import Graph, graphs, neighbour_graphs
from ucdr_ray.neighbors.nearest import Nearest, code, scores_of
from ucdr_ray.neighbors.screen import Space
from ucdr_ray.neighbors.search import Rows, search, side
from ucdr_ray.threads import each

DIM, K = 128, 50
T = TypeVar("T")


class Source:
    """Where rows come from: real features, or clusters drawn at random."""

    def __init__(self, paths: list[Path]) -> None:
        draw = torch.Generator().manual_seed(0)
        if not paths:
            self.real = 0
            self.base = torch.randn(2_000, DIM, generator=draw)
            self.spread = torch.randn(2_000, 12, DIM, generator=draw) * 0.5
            return
        found = np.concatenate([read(path) for path in paths])
        features = normalize(torch.from_numpy(found), dim=1)
        self.real = len(features)
        directions = torch.linalg.svd(features, full_matrices=False).Vh[:DIM]
        self.base = normalize(features @ directions.T, dim=1)
        nearest = Nearest(len(features), 1)
        search(Rows.all(self.base), nearest)

        self.noise = 0.7 * (2 - 2 * scores_of(nearest.codes())).clamp(min=0).sqrt()

    def rows(self, count: int, seed: int = 0) -> Tensor:
        """(count, 128) unit rows."""
        draw = torch.Generator().manual_seed(seed)
        which = torch.arange(count) % len(self.base)
        if self.real:
            noise = torch.randn(count, self.base.shape[1], generator=draw) * self.noise[which]
            return normalize(self.base[which] + noise / self.base.shape[1] ** 0.5, dim=1)
        weights = torch.randn(count, 1, 12, generator=draw).split(10_000)
        parts = zip(which.split(10_000), weights, strict=True)
        return normalize(torch.cat([self.base[p] + (w @ self.spread[p])[:, 0] for p, w in parts]), dim=1)


def read(path: Path) -> np.ndarray:
    """(N, D) float32 of a .npy file, or of all domains of an embeddings folder."""
    if path.is_dir():
        opened = Embeddings.open(path)
        return np.concatenate([opened.vectors(domain.name) for domain in opened.domains])
    return np.load(path).astype(np.float32)


def products(rows: Tensor, whole: bool) -> None:
    """The bare products of an exact search inside one set, or all of rows x rows."""
    parts, space = rows.split(side(rows.device)), Space(rows.device)
    pairs = [(i, j) for i in range(len(parts)) for j in range(0 if whole else i, len(parts))]

    def one(pair: tuple[int, int]) -> None:
        a, b = parts[pair[0]], parts[pair[1]]
        torch.mm(a, b.T, out=space.take(len(a), len(b)))

    each(one, pairs)


def whole_matrix(a: Tensor, b: Tensor, order: Callable[[Tensor], Tensor]) -> Tensor:
    """The peers' way to mutual neighbours: a matrix of all scores, ordered along both sides; (N, M) bool."""
    score = a @ b.T
    there, back = torch.zeros_like(score, dtype=torch.bool), torch.zeros_like(score.T, dtype=torch.bool)
    there.scatter_(1, order(score), True)
    back.scatter_(1, order(score.T.contiguous()), True)
    return there & back.T


def faiss_graph(index: faiss.Index, rows: Tensor) -> Graph:
    """Mutual neighbours from an index of the rows: k + 1 of each, without itself."""
    score, slot = (torch.from_numpy(found) for found in index.search(rows.numpy(), K + 1))
    own = slot == torch.arange(len(rows))[:, None]
    own[:, -1] |= ~own.any(1)
    codes = code(score[~own], slot[~own]).view(-1, K)
    return graphs(torch.where(slot[~own].view(-1, K) < 0, -(2**63), codes), None)[0]


def probes(index: faiss.IndexIVFFlat, rows: Tensor, exact: Graph, recall: float) -> int:
    """Lists that each row must look into so that so many of the mutual pairs are found, from a sample of pairs."""
    centroids = torch.from_numpy(index.quantizer.reconstruct_n(0, index.nlist))
    some = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:1_000]
    position, column = exact.edges(some)
    pair = torch.randperm(len(column), generator=torch.Generator().manual_seed(0))[:5_000]
    a, b = rows[some[position[pair]]] @ centroids.T, rows[column[pair]] @ centroids.T
    first = (a > a.gather(1, b.argmax(1, keepdim=True))).sum(1)
    second = (b > b.gather(1, a.argmax(1, keepdim=True))).sum(1)
    return int(torch.maximum(first, second).double().quantile(recall).ceil()) + 1


def agreement(exact: Graph, graph: Graph) -> tuple[float, float]:
    """Share of the exact pairs that the graph has, and share of its pairs that are exact."""
    rows = len(exact.indptr) - 1
    truth, ours = (
        (torch.repeat_interleave(torch.arange(rows), one.degrees()) * rows + one.indices).numpy()
        for one in (exact, graph)
    )
    both = len(np.intersect1d(truth, ours, assume_unique=True))
    return both / max(len(truth), 1), both / max(len(ours), 1)


def timed(work: Callable[..., T], *arguments: object) -> tuple[float, T]:
    start = time.perf_counter()
    found = work(*arguments)
    return time.perf_counter() - start, found


def turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(timed(way)[0])
    return {name: statistics.median(values) for name, values in seconds.items()}


def exact_figures(source: Source, rows: int, small: int, repeats: int) -> dict[str, float]:
    x = source.rows(rows)
    found = turns(
        {
            "products": lambda: products(x, False),
            "exact": lambda: neighbour_graphs(x, None, K),
            "full_products": lambda: products(x, True),
        },
        repeats,
    )
    a, b = source.rows(small, 1), source.rows(small, 2)
    peers = turns(
        {
            "exact": lambda: neighbour_graphs(a, b, K),
            "argsort": lambda: whole_matrix(a, b, lambda s: s.argsort(dim=1, descending=True)[:, :K]),
            "topk": lambda: whole_matrix(a, b, lambda s: s.topk(K, dim=1).indices),
        },
        repeats,
    )
    return {
        "exact_vs_matmul": found["exact"] / found["products"],
        "exact_vs_full_matmul": found["exact"] / found["full_products"],
        "speedup_vs_argsort": peers["argsort"] / peers["exact"],
        "speedup_vs_topk": peers["topk"] / peers["exact"],
        **{f"{name}_seconds": value for name, value in found.items()},
        **{f"across_{name}_seconds": value for name, value in peers.items()},
    }


def peak_rss(paths: list[Path], rows: int) -> float:
    """GB of this process after an exact search of so many rows."""
    neighbour_graphs(Source(paths).rows(rows), None, K)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def growth(source: Source, sizes: list[int], repeats: int) -> dict[str, float]:
    """Exact and approximate at each size; at the last one FAISS too."""
    found: dict[str, float] = {}
    for rows in sizes:
        x = source.rows(rows)
        seconds: dict[str, list[float]] = {"exact": [], "approx": []}
        for _ in range(repeats):
            taken, (exact, _) = timed(neighbour_graphs, x, None, K)
            seconds["exact"].append(taken)
            taken, (ours, _, quality) = timed(lambda x: approximate_graphs(Clustered.of(x), None, K), x)
            seconds["approx"].append(taken)
        found |= {f"{way}_seconds_{rows}": statistics.median(times) for way, times in seconds.items()}
        recall, precision = agreement(exact, ours)
        found |= {f"recall_{rows}": recall, f"precision_{rows}": precision}
        found |= {f"compared_{rows}": quality.compared, f"estimate_{rows}": quality.recall.share}
        found[f"degree_{rows}"] = exact.mean_degree()
    for way in ("exact", "approx"):
        times = [found[f"{way}_seconds_{rows}"] for rows in sizes]
        found[f"{way}_exponent"] = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    ratio = [found[f"exact_seconds_{rows}"] / found[f"approx_seconds_{rows}"] for rows in sizes]
    found["crossover_rows"] = float(np.exp(np.interp(0, np.log(ratio), np.log(sizes))))
    found["approx_speedup"] = ratio[-1]
    found |= {f"approx_{name}": found[f"{name}_{sizes[-1]}"] for name in ("recall", "estimate", "precision")}
    return found | against_faiss(x, exact, recall)


def against_faiss(x: Tensor, exact: Graph, recall: float) -> dict[str, float]:
    """Seconds and recall of FAISS's two usual indices on the same rows, building included."""
    found: dict[str, float] = {}
    for lists in (int(2 * len(x) ** 0.5), int(4 * len(x) ** 0.5)):
        ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT)
        ivf.cp.min_points_per_centroid = 1
        built = timed(ivf.train, x.numpy())[0] + timed(ivf.add, x.numpy())[0]
        ivf.nprobe = probes(ivf, x, exact, recall)
        taken, graph = timed(faiss_graph, ivf, x)
        found |= {f"ivf{lists}_seconds": built + taken, f"ivf{lists}_nprobe": float(ivf.nprobe)}
        found[f"ivf{lists}_recall"] = agreement(exact, graph)[0]
    hnsw = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
    built, _ = timed(hnsw.add, x.numpy())
    for beam in (64, 128, 256):
        hnsw.hnsw.efSearch = beam
        taken, graph = timed(faiss_graph, hnsw, x)
        found |= {"hnsw_seconds": built + taken, "hnsw_build_seconds": built, "hnsw_beam": float(beam)}
        found["hnsw_recall"] = agreement(exact, graph)[0]
        if found["hnsw_recall"] >= recall:
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rows, once: a smoke figure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="NPY|FOLDER",
        help="features; may be repeated",
    )
    arguments = parser.parse_args()
    rows, small, repeats = (10_000, 4_000, 1) if arguments.quick else (100_000, 20_000, 3)
    sizes = [2_500, 5_000, 10_000, 20_000] if arguments.quick else [25_000, 50_000, 100_000, 200_000]
    faiss.omp_set_num_threads(torch.get_num_threads())

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        peak = process.submit(peak_rss, arguments.data, rows).result()
    source = Source(arguments.data)
    found = exact_figures(source, rows, small, repeats) | {"peak_rss_gb": peak}
    found |= growth(source, sizes, repeats)
    found |= {
        "threads": torch.get_num_threads(),
        "real_rows": source.real,
        "dim": source.base.shape[1],
        "k": K,
    }

    table = Table(title=f"mutual {K}-NN inside one set, x {DIM}, {found['threads']} threads; seconds")
    for heading in ("rows", "exact", "approx", "speed-up", "compared", "recall", "measured", "precision"):
        table.add_column(heading, justify="right")
    for size in sizes:
        exact, approx = found[f"exact_seconds_{size}"], found[f"approx_seconds_{size}"]
        shares = (found[f"{name}_{size}"] for name in ("compared", "recall", "estimate", "precision"))
        seconds = (f"{value:.2f}" for value in (exact, approx, exact / approx))
        table.add_row(f"{size:,}", *seconds, *(f"{share:.4f}" for share in shares))
    console = Console(width=110)
    console.print(table)
    for name, value in found.items():
        if not name.endswith(tuple(f"_{size}" for size in sizes)):
            console.print(f"{name:>24} {value:.4g}")
    if arguments.json:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
