"""Writing an embeddings folder: its parts, and the manifest last."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ucdr_ray.embeddings import CatalogRef, DomainVectors, Embeddings, Manifest, ModelRef, Part, check_unit
from ucdr_ray.files import write_json
from ucdr_ray.parts_writer import check_out, write_rows
from ucdr_ray.records import files_under

_OURS = {"encoder", "vectors", ".lock"}  # all that an unfinished job leaves, besides hidden temporary names


def check_folder(folder: Path) -> None:
    """See that embeddings may be written to ``folder``: a run and an index hold an encoder of their own.

    Raises:
        UserError: it is a file, or holds something that is neither embeddings nor the beginning of some.
    """
    check_out(folder, "embeddings", _OURS)


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
    return write_rows(folder, file, first_slot, pa.table(columns), receipt)


def publish(
    folder: Path, dim: int, model: ModelRef, catalog: CatalogRef, domains: list[DomainVectors]
) -> Embeddings:
    """Write the manifest, which makes the folder readable."""
    encoder = files_under(folder, "encoder")
    manifest = Manifest(dim=dim, model=model, catalog=catalog, domains=domains, encoder=encoder)
    manifest = manifest.model_copy(update={"checksum": manifest.digest()})
    write_json(folder / "manifest.json", manifest.model_dump())
    return Embeddings(folder, manifest)
