"""Writing what is made from a catalog part by part, each with a receipt for the job that resumes."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.embeddings import Part
from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write, is_temporary, read_json, write_json
from ucdr_ray.records import Record, read_record


class _Receipt(Record):
    made_from: dict[str, Any]
    part: Part


def check_out(folder: Path, what: str, ours: set[str]) -> None:
    """See that parts of a kind may be written to ``folder``.

    Args:
        what: the kind; its manifest's format is "ucdr-" and this.
        ours: all that an unfinished job leaves, besides hidden temporary names.

    Raises:
        UserError: it is a file, or holds something that is neither of this kind nor the beginning of it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--out {folder}: is a file")
    manifest = folder / "manifest.json"
    if manifest.exists():
        content = read_json(manifest, f"{what} manifest")
        known = isinstance(content, dict) and content.get("format") == f"ucdr-{what}"
    else:
        known = all(entry.name in ours or is_temporary(entry.name) for entry in folder.iterdir())
    if not known:
        raise UserError(f"--out {folder}: is there and holds no {what}; choose another folder")


def write_rows(
    folder: Path,
    file: str,
    first_slot: int,
    rows: pa.Table,
    receipt: dict[str, Any],
    group: int | None = None,
) -> Part:
    """Write one part, then its receipt: ``receipt`` (what it was made from) beside the part's own record.

    Args:
        group: rows that can be read without the others; None: all that Parquet allows.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=group, use_dictionary=["domain"], compression="none")
    path = folder / file
    atomic_write(path, sink.getvalue())
    part = Part.of(folder, file, rows=len(rows), first_slot=first_slot)
    write_json(path.with_suffix(".json"), {"made_from": receipt, "part": part.model_dump()})
    return part


def finished_part(folder: Path, file: str, receipt: dict[str, Any], what: str) -> Part | None:
    """The part's record if it is complete, undamaged and was made from exactly ``receipt``; else None."""
    try:
        found = read_record(_Receipt, (folder / file).with_suffix(".json"), "receipt")
        found.part.check(folder, what)
    except UserError:
        return None
    return found.part if found.made_from == receipt and found.part.file == file else None


def clear_foreign(folder: Path, below: str, keep: set[str]) -> None:
    """Remove every file below ``below`` but the parts ``keep`` and their receipts, and what a killed job left."""
    kept = {folder / file for file in keep} | {(folder / file).with_suffix(".json") for file in keep}
    for path in (folder / below).rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink(missing_ok=True)  # a worker of a killed job may still be renaming it
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
