"""Search in the index: by domain, as it grows, by bits; what `auto` builds, and what it says of memory beforehand.

* filter: one domain of six, 500,000 rows. A shard of each domain, against one index of all rows that is asked for more
  and filtered afterwards, or given FAISS's `IDSelector` of the domain's rows. One query at a time, one thread.
* build: `auto` beside autofaiss, the same rows and cap of memory; recall at 10 of all rows.
* memory: the estimate, against what a process takes to open each kind of index and search it.
* binary: hash codes of 64 bits, against comparing the same codes as float numbers.
* growth: latency and memory of one process with 100,000 to 3,000,000 rows.

Rows of the first three are of `--features` (folders of `ucdr embed`, 256 dimensions), else made; see `made_index.py`.
The peers run in an environment of their own; autofaiss 2.18 does not work with today's FAISS:

    python -m venv peers
    peers/bin/pip install autofaiss faiss-cpu==1.11.0 "numpy<2" "pyarrow<20" qdrant-client
    python benchmarks/search.py --features embeddings --peers peers/bin/python --json search.json
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from made_index import made_rows, real_rows
from rich.console import Console
from search_build import built_beside_autofaiss, estimates_beside_truth
from search_filter import filtered
from search_growth import binary, growth
from threadpoolctl import threadpool_limits

from ucdr_ray.files import write_json
from ucdr_ray.index.shard import one_thread

DOMAINS = 6
PARTS = ("filter", "build", "memory", "binary", "growth")


def main(
    features: Annotated[list[Path] | None, typer.Option(help="Folders of `ucdr embed`.")] = None,
    peers: Annotated[Path | None, typer.Option(help="Python of the peers' environment.")] = None,
    rows: Annotated[int, typer.Option(help="Of filter, build and memory.")] = 500_000,
    only: Annotated[str, typer.Option(help="Some of: " + ",".join(PARTS))] = ",".join(PARTS),
    work: Annotated[Path | None, typer.Option(help="Where indexes are kept for the next time.")] = None,
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rows: a smoke figure.")] = False,
) -> None:
    if quick:
        rows = 30_000
    chosen, console = only.split(","), Console(width=150)
    one_thread()
    found: dict[str, float] = {"rows": rows}
    with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1):
        folder = (work or Path(scratch)) / f"{'real' if features else 'made'}-{rows}"
        if {"filter", "build", "memory"} & set(chosen):
            vectors = real_rows(features, rows) if features else made_rows(rows, DOMAINS)
        if "filter" in chosen:
            found |= filtered(vectors, folder / "filter", peers, console)
        if "build" in chosen:
            found |= built_beside_autofaiss(vectors, folder / "build", peers, console)
        if "memory" in chosen:
            found |= estimates_beside_truth(vectors, folder / "memory", console)
        if "binary" in chosen:
            found |= binary(20_000 if quick else 1_000_000, console)
        if "growth" in chosen:
            sizes = (10_000, 30_000) if quick else (100_000, 300_000, 1_000_000, 3_000_000)
            found |= growth(sizes, folder / "growth", console)
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    typer.run(main)
