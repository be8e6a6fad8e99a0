"""The job behind `ucdr ingest`: plan, make parts in parallel on Ray Data, finish. One chunk is `ucdr_ray.ingest`'s."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ucdr_ray.catalog import Catalog, Manifest
from ucdr_ray.cluster.session import start_ray
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import fingerprint, staged_folder
from ucdr_ray.images import DEFAULT_MAX_PIXELS
from ucdr_ray.ingest.finish import finish, moves, write_rejects
from ucdr_ray.ingest.part import Settings, make_part, move_part, plan_folder
from ucdr_ray.ingest.plan import Chunk, Plan, Selection, write_plan
from ucdr_ray.ingest.target import forget_plan, hold
from ucdr_ray.progress import progress
from ucdr_ray.sources import list_items, parse_source

_MOST_BLOCKS = 2000  # Ray's cost is per block; beyond this many chunks, a task takes several

Row = dict[str, Any]


def ingest(
    sources: list[str],
    out: Path,
    selection: Selection,
    root: Path | None = None,
    label_base: int | None = None,
    max_side: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_rejects: float = 0.01,
    check: Callable[[Plan], None] = lambda plan: None,
) -> Manifest:
    """Ingest ``sources`` into the catalog ``out``; parts that an interrupted call has finished are taken over.

    A catalog that is there already, made from the same inputs, is left as it is.

    Args:
        check: sees the plan before any image is read; what it raises ends the call, and nothing is written.

    Raises:
        UserError: wrong sources or selection, or ``out`` holds something else.
        JobError: more than the share ``max_rejects`` of all inputs can't be used, or a worker failed.
    """
    out = out.resolve()  # workers need not stand in this process's folder
    settings = Settings(max_side=max_side, max_pixels=max_pixels)
    parsed = [parse_source(text, root) for text in sources]
    for path in [out, *(source.path for source in parsed)]:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"{str(path)!r}: allowed are paths in UTF-8") from None
    for source in parsed:
        if out.is_relative_to(source.path.resolve()):
            raise UserError(
                f"--out {out} lies inside the source {source.text}, and would be read as a part of it"
            )
    with hold(out):
        try:
            with staged_folder(plan_folder(out)) as folder:
                plan = write_plan(list_items(parsed, label_base), selection, folder)
                check(plan)
            inputs = fingerprint([plan.digest, settings.model_dump()])
            there = _already_there(out, inputs)
        except BaseException:
            forget_plan(out)
            raise
        if there is not None:
            forget_plan(out)
            return there
        start_ray()
        with progress("ingest", "images", plan.items) as meter:
            _make_parts(out, plan, settings, max_rejects, meter.advance)
        return finish(out, plan, settings, inputs, [source.text for source in parsed])


def _already_there(out: Path, inputs: str) -> Manifest | None:
    if not (out / "manifest.json").exists():
        return None
    manifest = Catalog.open(out).manifest
    if manifest.inputs != inputs:
        raise UserError(
            f"--out {out}: holds a catalog made from other inputs or settings; remove it, or choose another folder"
        )
    return manifest


def _make_parts(
    out: Path, plan: Plan, settings: Settings, max_rejects: float, advance: Callable[[int], None]
) -> None:
    """Make every part of ``plan``, then close the gaps that rejects leave in the slots."""

    def make(row: Row) -> Row:
        chunk = Chunk(**row)
        return {"items": chunk.items, "rejects": len(make_part(out, chunk, settings).rejects)}

    def move(row: Row) -> Row:
        first_slot = row.pop("first_slot")
        move_part(out, Chunk(**row), settings, first_slot)
        return {"items": row["items"], "rejects": 0}

    rejects = 0
    for done in _map(make, [asdict(chunk) for chunk in plan.chunks]):
        advance(done["items"])
        rejects += done["rejects"]
        if rejects > max_rejects * plan.items:
            found = write_rejects(out, plan)
            first = pq.read_table(found).slice(0, 1).to_pylist()[0]
            raise JobError(
                f"{rejects} of {plan.items} inputs can't be used, over --max-rejects {max_rejects:g}; "
                f"the first is {first['path']}: {first['reason']}; all of them: {found}"
            )
    shifts = moves(out, plan)
    for _ in _map(move, [asdict(shift.chunk) | {"first_slot": shift.first_slot} for shift in shifts]):
        pass


def _map(work: Callable[[Row], Row], rows: list[Row]) -> Iterator[Row]:
    """``work`` on each row, in parallel; results, with items and rejects, as they come. Raises ``JobError``."""
    import ray.data
    from ray.exceptions import RayError

    def on_block(block: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        found = []
        for values in zip(*(column.tolist() for column in block.values()), strict=True):
            try:
                found.append(work(dict(zip(block, values, strict=True))) | {"error": ""})
            except (OSError, JobError) as error:  # As data: raised, Ray would bury it in its own traceback.
                found.append({"items": 0, "rejects": 0, "error": str(error)})
        return {name: [row[name] for row in found] for name in found[0]}

    if not rows:
        return
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
    try:
        for row in dataset.map_batches(on_block, batch_size=None).iter_rows():
            if row["error"]:
                raise JobError(f"a part of the catalog could not be written: {row['error']}")
            yield row
    except RayError as error:
        raise JobError(f"ingest stopped: {error}") from error
