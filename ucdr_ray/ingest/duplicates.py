"""Which images came more than once, by content."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.catalog import DUPLICATES, Part


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

    found = _sources(out, parts, np.union1d(place, first))
    rows = []
    for here, there in zip(place.tolist(), first.tolist(), strict=True):
        (domain, source), (first_domain, first_source) = found[here], found[there]
        rows.append(
            {
                "id": ids[here].ljust(16, b"\0").hex(),
                "domain": domain,
                "source": source,
                "first_domain": first_domain,
                "first_source": first_source,
            }
        )
    return pa.Table.from_pylist(rows, DUPLICATES)


def _ids(path: Path) -> np.ndarray:
    column = pq.read_table(path, columns=["id"]).column("id")
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), dtype="S16")


def _sources(out: Path, parts: list[tuple[str, Part]], places: np.ndarray) -> dict[int, tuple[str, str]]:
    """Domain and source of the images at ascending ``places`` in the sequence of all parts."""
    ends = np.cumsum([part.rows for _, part in parts])
    owner = np.searchsorted(ends, places, side="right")
    found = {}
    for index in np.unique(owner).tolist():
        domain, part = parts[index]
        column = pq.read_table(out / part.file, columns=["source"]).column("source")
        for place in places[owner == index].tolist():
            found[place] = (domain, column[place - (ends[index] - part.rows)].as_py())
    return found
