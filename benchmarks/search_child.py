"""One index in a process of its own: what it takes to open it, in seconds and memory, and to search it."""

import ctypes
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ucdr_ray.index.search import Index

QUERIES = 300
AT_ONCE = 64  # queries that the service searches together


def in_a_process(index: Path, small: Path) -> dict[str, float]:
    """``open_s``, ``bytes`` and ``query_ms``: median, one query in all domains, one thread.

    Bytes are what comes to those of a process that has opened and searched ``small``, an index of a few rows.
    """
    said = subprocess.run(
        [sys.executable, __file__, index, small], check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, float] = json.loads(said.stdout.splitlines()[-1])
    return figures


def memory(kind: str) -> int:
    """Of this process: its own, and the vectors' pages where every search reads them all."""
    own = Path("/proc/self/smaps_rollup").read_text().splitlines()
    size = next(int(line.split()[1]) for line in own if line.startswith("Anonymous:"))
    if kind == "exact":
        mapped = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if not line.split()[0].endswith(":"):
                mapped = line.endswith("vectors.faiss")
            elif mapped and line.startswith("Rss:"):
                size += int(line.split()[1])
    return 1024 * size


def main(path: Path, small: Path) -> None:
    from ucdr_ray.index.search import Index
    from ucdr_ray.index.shard import one_thread
    from ucdr_ray.index.versions import current, read_manifest

    one_thread()
    warm = Index.open(small)
    asked(warm, np.eye(warm.manifest.dim, dtype=np.float32))
    warm.find("")
    manifest = read_manifest(path, current(path))
    rng = np.random.default_rng(2)
    ctypes.CDLL(None).malloc_trim(0)  # or what comes would lie where something was, and not be seen
    before = memory(manifest.kind)
    start = time.perf_counter()
    index = Index.open(path)
    for name in manifest.domains:
        index.domain(name)
    index.find("")  # as the service does: ids are sorted
    opened = time.perf_counter() - start
    queries = np.concatenate(
        [
            index.domain(name).vectors(rng.integers(manifest.rows_of(name), size=50))
            for name in manifest.domains
        ]
    )
    queries += rng.normal(size=queries.shape, scale=0.1 / queries.shape[1] ** 0.5).astype(np.float32)
    asked(index, queries)
    times = []
    for query in queries[:QUERIES]:
        start = time.perf_counter()
        index.search(query[None], k=10)
        times.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "open_s": opened,
                "bytes": memory(manifest.kind) - before,
                "query_ms": 1e3 * statistics.median(times),
            }
        )
    )


def asked(index: "Index", queries: np.ndarray) -> None:
    """Search as the service does."""
    for first in range(0, len(queries), AT_ONCE):
        index.search(queries[first : first + AT_ONCE], k=10)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
