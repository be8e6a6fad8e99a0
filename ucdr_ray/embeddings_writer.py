"""Writing an embeddings folder: parts, each with a receipt for the job that resumes; the manifest last."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.embeddings import CatalogRef, DomainVectors, Embeddings, Manifest, ModelRef, Part, check_unit
from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write, is_temporary, read_json, write_json
from ucdr_ray.records import Record, files_under, read_record

_OURS = {"encoder", "vectors", ".lock"}  # all that an unfinished job leaves, besides hidden temporary names


class _Receipt(Record):
    made_from: dict[str, Any]
    part: Part


def check_folder(folder: Path) -> None:
    """See that embeddings may be written to ``folder``: a run and an index hold an encoder of their own.

    Raises:
        UserError: it is a file, or holds something that is neither embeddings nor the beginning of some.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--out {folder}: is a file")
    manifest = folder / "manifest.json"
    if manifest.exists():
        content = read_json(manifest, "embeddings manifest")
        ours = isinstance(content, dict) and content.get("format") == "ucdr-embeddings"
    else:
        names = {entry.name for entry in folder.iterdir()}
        ours = all(name in _OURS or is_temporary(name) for name in names)
    if not ours:
        raise UserError(f"--out {folder}: is there and holds no embeddings; choose another folder")


def write_part(
    folder: Path,
    file: str,
    domain: str,
    first_slot: int,
    ids: list[str],
    vectors: np.ndarray,
    receipt: dict[str, Any],
) -> Part:
    """Write one part, then its receipt: ``receipt`` (what it was made from) beside the part's own record.

    Raises:
        UserError: a vector is not finite or not of unit length.
    """
    check_unit(vectors, file)
    slots = np.arange(first_slot, first_slot + len(ids))
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns = {
        "id": pa.array(ids, pa.string()),
        "domain": pa.array([domain] * len(ids), pa.string()),
        "slot": pa.array(slots, pa.int64()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, use_dictionary=["domain"], compression="none")
    path = folder / file
    atomic_write(path, sink.getvalue())
    part = Part.of(folder, file, rows=len(ids), first_slot=first_slot)
    write_json(path.with_suffix(".json"), {"made_from": receipt, "part": part.model_dump()})
    return part


def finished_part(folder: Path, file: str, receipt: dict[str, Any]) -> Part | None:
    """The part's record if it is complete, undamaged and was made from exactly ``receipt``; else None."""
    try:
        found = read_record(_Receipt, (folder / file).with_suffix(".json"), "receipt")
        found.part.check(folder, "embeddings")
    except UserError:
        return None
    return found.part if found.made_from == receipt and found.part.file == file else None


def publish(
    folder: Path, dim: int, model: ModelRef, catalog: CatalogRef, domains: list[DomainVectors]
) -> Embeddings:
    """Write the manifest, which makes the folder readable."""
    encoder = files_under(folder, "encoder")
    manifest = Manifest(dim=dim, model=model, catalog=catalog, domains=domains, encoder=encoder)
    manifest = manifest.model_copy(update={"checksum": manifest.digest()})
    write_json(folder / "manifest.json", manifest.model_dump())
    return Embeddings(folder, manifest)


def clear_foreign(folder: Path, keep: set[str]) -> None:
    """Remove every vector file but the parts ``keep`` and their receipts, and what a killed job left half-written."""
    kept = {folder / file for file in keep} | {(folder / file).with_suffix(".json") for file in keep}
    for path in (folder / "vectors").rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink(missing_ok=True)  # a worker of a killed job may still be renaming it
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
