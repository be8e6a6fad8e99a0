"""Jobs that turn each part of a catalog into a part of something else, on a pool of Ray Data actors."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ucdr_ray.catalog import Catalog, Domain
from ucdr_ray.cluster.session import start_ray
from ucdr_ray.embeddings import Part
from ucdr_ray.errors import JobError, UserError

Row = dict[str, Any]


def rows_of(
    catalog: Catalog, domains: Sequence[Domain], out: Path, below: str, made_from: dict[str, Any]
) -> list[Row]:
    """For `run`, a row for each part of the domains: where it lies, and what is to be made of it below ``out/below``.

    Args:
        made_from: what else, besides the part itself, decides what is made; for the receipts.
    """
    return [
        {
            "source": str(catalog.path.resolve() / part.file),
            "out": str(out),
            "file": part.file.replace("images/", f"{below}/", 1),
            "domain": domain.name,
            "first_slot": part.first_slot,
            "images": part.rows,
            "made_from": made_from | {"part": part.sha256},
        }
        for domain in domains
        for part in domain.parts
    ]


@contextmanager
def held(out: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to ``out``, which is made if missing.

    Args:
        wait: for one that does already, until it ends or dies.

    Raises:
        UserError: one does already, and it is not to be waited for.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(f"--out {out}: another process is {doing} there") from None
        print(f"waiting for another process that is {doing} to {out}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def run(doing: str, rows: list[Row], actor: type, actors: int | None, **arguments: Any) -> Iterator[Part]:
    """Call ``actor(**arguments, threads=...)`` objects with rows, in parallel; their parts as they are finished.

    Args:
        actor: called with a row, returns a part's record as JSON under "part", or what went wrong under "error".
        actors: copies of it; without it one for each GPU, or without GPUs for each CPU.

    Raises:
        JobError: what an actor said, or a worker failed.
    """
    if not rows:
        return
    start_ray()
    import ray.data
    from ray.exceptions import RayError

    available = ray.cluster_resources()
    gpus = int(available.get("GPU", 0))
    # A small machine's Ray is given more logical CPUs than there are; a cluster's are what they say.
    cpus = int(available["CPU"]) if len(ray.nodes()) > 1 else os.cpu_count() or 1
    actors = min(len(rows), actors or gpus or cpus)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        actor,
        fn_constructor_kwargs=arguments | {"threads": max(1, cpus // actors)},
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise JobError(row["error"])
            yield Part.model_validate_json(row["part"])
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise JobError(f"{doing} stopped: {type(cause).__name__}: {cause}") from error
