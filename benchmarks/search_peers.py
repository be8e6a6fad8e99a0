"""The peers of `search.py`, in an environment of their own, without this project: called by it, not by hand."""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np


def autofaiss(work: Path, memory: str) -> dict[str, float]:
    """Build within a cap of memory, and search."""
    import faiss
    from autofaiss import build_index

    start = time.perf_counter()
    index, _ = build_index(
        np.load(work / "rows.npy"),
        index_path=str(work / "autofaiss.index"),
        index_infos_path=str(work / "autofaiss.json"),
        max_index_memory_usage=memory,
        current_memory_available="8G",
        metric_type="ip",
        verbose=40,
    )
    took = time.perf_counter() - start
    faiss.omp_set_num_threads(1)
    queries, times, rows = np.load(work / "queries.npy"), [], []
    for query in queries:
        start = time.perf_counter()
        rows.append(index.search(query[None], 10)[1][0])
        times.append(time.perf_counter() - start)
    np.save(work / "found.npy", np.stack(rows))
    return {"build_s": took, "query_ms": 1e3 * statistics.median(times)}


def qdrant(work: Path) -> dict[str, float]:
    """Search one domain in local mode."""
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, FieldCondition, Filter, MatchValue, PointStruct, VectorParams

    rows = np.load(work / "rows.npy")
    client = QdrantClient(":memory:")
    client.create_collection(
        "rows", vectors_config=VectorParams(size=rows.shape[1], distance=Distance.COSINE)
    )
    for name, (first, end) in json.loads((work / "ranges.json").read_text()).items():
        for start in range(first, end, 10_000):
            some = range(start, min(end, start + 10_000))
            client.upsert("rows", [PointStruct(id=n, vector=rows[n], payload={"domain": name}) for n in some])
    names, queries = json.loads((work / "names.json").read_text()), np.load(work / "queries.npy")
    began = time.perf_counter()
    for name, query in zip(names, queries, strict=True):
        wanted = Filter(must=[FieldCondition(key="domain", match=MatchValue(value=name))])
        client.query_points("rows", query=query, query_filter=wanted, limit=10)
    return {"qps": len(names) / (time.perf_counter() - began)}


if __name__ == "__main__":
    calls = {"autofaiss": autofaiss, "qdrant": qdrant}
    print(json.dumps(calls[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))  # type: ignore[operator]
