"""Which images came more than once, by content."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.catalog import DUPLICATES, SCHEMA, Part


def duplicates(out: Path, parts: list[tuple[str, Part]]) -> pa.Table:
    """One row per image whose content stands earlier in ``parts``, with the place where it stands first."""
    # 16 raw bytes each. Equal length makes NumPy's padding of zeros harmless.
    ids = np.concatenate([_ids(out / part.file) for _, part in parts])
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    again = np.concatenate([[False], ranked[1:] == ranked[:-1]])
    run = np.maximum.accumulate(np.where(again, 0, np.arange(len(ids))))
    place, first = order[again], order[run[again]]
    by_place = np.argsort(place)
    place, first = place[by_place], first[by_place]

    needed = np.union1d(place, first)
    rows = _rows(out, parts, needed)
    again_rows = rows.take(pa.array(np.searchsorted(needed, place)))
    first_rows = rows.take(pa.array(np.searchsorted(needed, first)))
    columns = [*again_rows.columns, first_rows["domain"], first_rows["source"]]
    return pa.table(columns, schema=DUPLICATES)


def _ids(path: Path) -> np.ndarray:
    column = pq.read_table(path, columns=["id"]).column("id")
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), dtype="S16")


def _rows(out: Path, parts: list[tuple[str, Part]], places: np.ndarray) -> pa.Table:
    """Id, domain and source of the images at ascending ``places`` in the sequence of all parts."""
    ends = np.cumsum([part.rows for _, part in parts])
    owner = np.searchsorted(ends, places, side="right")
    columns = list(DUPLICATES.names[:3])
    found = [SCHEMA.empty_table().select(columns)]
    for index in np.unique(owner).tolist():
        _, part = parts[index]
        table = pq.read_table(out / part.file, columns=columns)
        found.append(table.take(pa.array(places[owner == index] - (ends[index] - part.rows))))
    return pa.concat_tables(found)
