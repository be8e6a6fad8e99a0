"""From the rows of a catalog to decoded images as arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.catalog import Catalog
from ucdr_ray.errors import JobError
from ucdr_ray.images import Reject, to_array


@dataclass(frozen=True)
class Span:
    """Consecutive images of a domain that lie in one file: rows start..stop, the first of them at slot `first`."""

    file: str
    start: int
    stop: int
    first: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def slots(self) -> np.ndarray:
        return np.arange(self.first, self.first + len(self))

    def cut(self, low: int, high: int) -> "Span":
        """Of its images, those from the `low`-th up to the `high`-th."""
        return replace(self, start=self.start + low, stop=self.start + high, first=self.first + low)


def spans(catalog: Catalog, domain: str, rows: int | None = None) -> list[Span]:
    """A domain in the order of slots, a span for each file, or where these are longer for `rows` images of it."""
    found = []
    for part in catalog.domain(domain).parts:
        file = str(catalog.path.resolve() / part.file)
        for start in range(0, part.rows, rows or part.rows):
            stop = min(start + (rows or part.rows), part.rows)
            found.append(Span(file, start, stop, part.first_slot + start))
    return found


def cut(spans: Iterable[Span], low: int, high: int) -> list[Span]:
    """Of the images of all spans, one after the other, those from the `low`-th up to the `high`-th."""
    found, first = [], 0
    for span in spans:
        start, stop = max(low - first, 0), min(high - first, len(span))
        if start < stop:
            found.append(span.cut(start, stop))
        first += len(span)
    return found


def decode(spans: Sequence[Span], size: int, resize: Literal["squash", "crop"]) -> np.ndarray:
    """Pixels (N, 3, size, size) uint8 of all images of the spans. JobError: one can't be decoded."""
    out = np.empty((sum(map(len, spans)), 3, size, size), np.uint8)
    row = 0
    for span in spans:
        for slot, data in zip(span.slots, read(span, "image").to_pylist(), strict=True):
            try:
                out[row] = to_array(data, size, resize, max_pixels=None)
            except Reject as reject:
                raise JobError(f"image {slot} in {span.file}: {reject.reason}; ingest it again") from None
            row += 1
    return out


def read(span: Span, column: str) -> pa.ChunkedArray:
    """A column of the span's rows; of the file, only the row groups that hold them are read."""
    pieces: list[pa.ChunkedArray] = []
    with pq.ParquetFile(span.file) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            start, stop = max(span.start - first, 0), min(span.stop - first, rows)
            if start < stop:
                pieces.append(file.read_row_group(group, columns=[column])[column].slice(start, stop - start))
            first += rows
    return pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks])


class Chunks:
    """Arrays one after the other, read by row as if they were one: no copy of the whole is made."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = list(arrays)
        self._starts = np.cumsum([0] + [len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """(R,) row numbers -> (R, ...) copies."""
        chunk = np.searchsorted(self._starts, rows, side="right") - 1
        out = np.empty((len(rows), *self._arrays[0].shape[1:]), self._arrays[0].dtype)
        for index in np.unique(chunk):
            mine = chunk == index
            out[mine] = self._arrays[index][rows[mine] - self._starts[index]]
        return out

    def split(self, sizes: Sequence[int]) -> list["Chunks"]:
        """The first `sizes[0]` rows, the next `sizes[1]`, and so on, still without a copy."""
        edges = np.cumsum([0, *sizes])
        return [
            Chunks([
                array[max(low - start, 0) : high - start]
                for array, start in zip(self._arrays, self._starts[:-1], strict=True)
                if start < high and start + len(array) > low
            ])
            for low, high in pairwise(edges.tolist())
        ]  # fmt: skip
