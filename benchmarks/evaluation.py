"""Exact evaluation against the usual way: the whole score matrix, `numpy.argsort`, labels in that order.

Both compute all metrics of `ucdr evaluate` from the same float32 scores (one torch product each), in turns, in one
process; a figure is the best of the repeats. Two argsorts are compared with: numpy's default, which is the fastest but
leaves equal scores in no order, and the stable one, which keeps the tie rule and so must give the very same numbers.

Example: python benchmarks/evaluation.py --json evaluation.json
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ucdr_ray.evaluation.metrics import RankSummary, all_metrics
from ucdr_ray.evaluation.protocols import CUTOFFS
from ucdr_ray.evaluation.ranking import rank_relevant
from ucdr_ray.files import write_json

Metrics = dict[str, float | None]


def argsort_metrics(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    kind: Literal["quicksort", "stable"],
) -> Metrics:
    """The usual way: several queries x gallery matrices at once."""
    scores = (torch.from_numpy(queries) @ torch.from_numpy(gallery).T).numpy()
    order = np.argsort(-scores, axis=1, kind=kind)
    correct = gallery_labels[order] == query_labels[:, None]
    hits = np.cumsum(correct, axis=1)
    precisions = hits / np.arange(1, len(gallery) + 1)
    precisions *= correct
    relevant = hits[:, -1]
    ks = np.array(CUTOFFS)
    capped = np.minimum(ks, np.maximum(relevant, 1)[:, None])
    return all_metrics(
        RankSummary(
            cutoffs=ks,
            relevant=relevant,
            average_precision=precisions.sum(axis=1) / np.maximum(relevant, 1),
            hits=hits[:, np.minimum(ks, len(gallery)) - 1],
            capped_hits=np.take_along_axis(hits, capped - 1, axis=1),
            precision_sum=np.stack([precisions[:, :k].sum(axis=1) for k in CUTOFFS], axis=1),
        )
    )


def compare(
    queries: int,
    gallery: int,
    dim: int = 128,
    classes: int = 100,
    repeats: int = 3,
    crowded: bool = False,
    seed: int = 0,
) -> dict[str, float]:
    """Time both ways on random unit vectors of ``classes`` equally likely labels.

    ``crowded``: around a mean, with cosines near 0.6, as pretrained features have them; nearly equal scores abound.

    Returns:
        Seconds of each way, ratios of their rates (ours / theirs; ``evaluate_vs_argsort`` against the faster argsort),
        ``extra_mb``: what ours adds to the process's peak memory, and ``largest_difference`` of any metric between
        ours and the stable argsort.
    """
    rng = np.random.default_rng(seed)
    mean = np.float32(1.25 if crowded else 0)
    a, b = (_unit(mean + rng.standard_normal((rows, dim), dtype=np.float32)) for rows in (queries, gallery))
    a_labels, b_labels = rng.integers(0, classes, queries), rng.integers(0, classes, gallery)

    def ours() -> Metrics:
        return all_metrics(rank_relevant(a, a_labels, b, b_labels, CUTOFFS))

    ways: dict[str, Callable[[], Metrics]] = {
        "evaluate": ours,
        "argsort": lambda: argsort_metrics(a, a_labels, b, b_labels, "quicksort"),
        "stable_argsort": lambda: argsort_metrics(a, a_labels, b, b_labels, "stable"),
    }
    rank_relevant(a[:64], a_labels[:64], b[:64], b_labels[:64], CUTOFFS)  # loads the libraries
    before = _peak_mb()
    found = {"evaluate": ours()}
    extra = _peak_mb() - before  # first of all, because a peak never falls
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    differences = [
        abs(value - other)
        for value, other in zip(found["evaluate"].values(), found["stable_argsort"].values(), strict=True)
        if value is not None and other is not None
    ]
    return {
        "queries": queries,
        "gallery": gallery,
        "dim": dim,
        "classes": classes,
        "threads": torch.get_num_threads(),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "evaluate_vs_argsort": min(seconds["argsort"], seconds["stable_argsort"]) / seconds["evaluate"],
        "evaluate_vs_stable_argsort": seconds["stable_argsort"] / seconds["evaluate"],
        "extra_mb": extra,
        "largest_difference": max(differences),
    }


def compare_all(rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """`compare` of four kinds of sets; each in a process of its own, for its peak memory."""
    kinds = [(7, False), (7, True), (100, False), (rows, False)]
    results = {}
    for classes, crowded in kinds:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found = process.submit(compare, rows, rows, classes=classes, crowded=crowded, repeats=repeats)
            results[f"{classes}_classes{'_crowded' if crowded else ''}"] = found.result()
    return results


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3,000 x 3,000, once: a smoke figure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--rows", type=int, default=10_000, metavar="N", help="queries, and gallery images")
    arguments = parser.parse_args()
    rows, repeats = (3_000, 1) if arguments.quick else (arguments.rows, 3)

    results = compare_all(rows, repeats)
    threads = results["7_classes"]["threads"]
    table = Table(title=f"all metrics of {rows:,} x {rows:,} x 128, {threads} threads; seconds")
    for heading in (
        "set",
        "evaluate",
        "argsort",
        "stable",
        "x argsort",
        "x stable",
        "extra MB",
        "difference",
    ):
        table.add_column(heading, justify="right")
    for name, row in results.items():
        table.add_row(
            name.replace("_", " "),
            *(f"{row[f'{way}_seconds']:.2f}" for way in ("evaluate", "argsort", "stable_argsort")),
            *(f"{row[f'evaluate_vs_{way}']:.1f}" for way in ("argsort", "stable_argsort")),
            f"{row['extra_mb']:.0f}",
            f"{row['largest_difference']:.0e}",
        )
    Console(width=110).print(table)
    if arguments.json:
        main_figure = min(row["evaluate_vs_argsort"] for row in results.values())
        flat = {f"{name}.{key}": value for name, row in results.items() for key, value in row.items()}
        write_json(arguments.json, {"evaluate_vs_argsort": main_figure} | flat)


if __name__ == "__main__":
    main()
