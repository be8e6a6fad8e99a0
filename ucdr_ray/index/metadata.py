"""What an answer shows of a row: id, source and a thumbnail, in one Parquet file per shard. No labels."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.errors import UserError

ROWS_PER_GROUP = 256  # one thumbnail costs the reading of one row group
_AROUND_ROW = (
    8 + 8 + 15 + 1
)  # in memory: an id's place in order, where its source ends, its share of the footer, whether it can be found
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("slot", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),
    ]
)


def write_metadata(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write batches of SCHEMA, in slot order, with row groups small enough for single thumbnails."""
    with pq.ParquetWriter(
        path, SCHEMA, write_statistics=False
    ) as writer:  # half of a footer, which stays in memory
        for batch in batches:
            writer.write_batch(batch, row_group_size=ROWS_PER_GROUP)


class Metadata:
    """The rows of one shard, by slot: ids and sources in memory, thumbnails read when asked for."""

    def __init__(self, path: Path, domain: str, first_slot: int, rows: int) -> None:
        """Open a file whose checksum was verified.

        Raises:
            UserError: it is not the metadata of those rows of ``domain``.
        """
        self._file = pq.ParquetFile(path, pre_buffer=False)  # or it keeps what it read, 20 bytes a row
        if self._file.schema_arrow != SCHEMA:
            raise UserError(f"bad index metadata {path}: its columns are not {', '.join(SCHEMA.names)}")
        # One thread: others would keep what they took for good.
        table = self._file.read(columns=["id", "domain", "slot", "source"], use_threads=False)
        wanted = np.arange(first_slot, first_slot + rows)
        if not np.array_equal(table["slot"].to_numpy(), wanted) or set(
            table["domain"].unique().to_pylist()
        ) != {domain}:
            raise UserError(
                f"bad index metadata {path}: does not hold slots {wanted[0]} to {wanted[-1]} of {domain}"
            )
        self.first_slot = first_slot
        self.ids = _fixed(table["id"])  # by row, as FAISS counts
        self._source_ends, text = _buffers(table["source"])
        self._source_text = memoryview(text)  # which slices without copying
        del table
        pa.default_memory_pool().release_unused()  # what reading took
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._group_ends = np.cumsum(sizes)

    @property
    def memory(self) -> int:
        """Bytes that it takes."""
        rows = len(self.ids)
        return row_memory(self.ids.dtype.itemsize, 0) * rows + len(self._source_text)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.ids, kind="stable")

    def row(self, id_: bytes) -> int | None:
        """The row of an id. The first call sorts them all."""
        if len(id_) > self.ids.dtype.itemsize or b"\0" in id_:
            return None  # NumPy would widen a copy of all ids to its length, and leave out zeros at the end
        place = np.searchsorted(self.ids, id_, sorter=self._order)
        if place == len(self.ids) or self.ids[self._order[place]] != id_:
            return None
        return int(self._order[place])

    def sources(self, slots: np.ndarray) -> list[str]:
        """Where the images came from; slots int64 (n,)."""
        rows = slots - self.first_slot
        places = zip(self._source_ends[rows].tolist(), self._source_ends[rows + 1].tolist(), strict=True)
        return [str(self._source_text[start:end], "utf-8") for start, end in places]

    def thumbnail(self, slot: int) -> bytes:
        """A small encoded image."""
        return self.thumbnails(np.array([slot]))[0]

    def thumbnails(self, slots: np.ndarray) -> list[bytes]:
        """Those of ascending slots; reads only the row groups that hold them."""
        rows = slots - self.first_slot
        groups = np.searchsorted(self._group_ends, rows, side="right")
        found: list[bytes] = []
        for group in np.unique(groups).tolist():
            column = self._file.read_row_group(group, columns=["thumbnail"])["thumbnail"]
            first = int(self._group_ends[group]) - len(column)
            found += column.take(pa.array(rows[groups == group] - first)).to_pylist()
        return found


def row_memory(id_bytes: int, source_bytes: int) -> int:
    """Bytes that `Metadata` takes for a row whose id and source are so long."""
    return id_bytes + source_bytes + _AROUND_ROW


def _buffers(column: pa.ChunkedArray) -> tuple[np.ndarray, bytes]:
    """Where each string ends, int64 (n + 1,), and all the text. Arrow's own `take` costs more than a search does.

    Copies: what stays in Arrow's pool keeps much else from being given back.
    """
    _, ends, text = column.cast(pa.large_string()).combine_chunks().buffers()
    return np.frombuffer(ends, np.int64).copy(), text.to_pybytes() if text is not None else b""


def _fixed(column: pa.ChunkedArray) -> np.ndarray:
    """Bytes (n,), as wide as the longest."""
    ends, text = _buffers(column)
    lengths = np.unique(np.diff(ends))
    if len(lengths) == 1 and lengths[0] > 0:  # as those of catalogs are: as they lie there
        return np.frombuffer(text, f"S{lengths[0]}", count=len(ends) - 1, offset=int(ends[0]))
    return np.array(column.to_pylist(), dtype=np.bytes_)
