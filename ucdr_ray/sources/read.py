"""From items to encoded bytes: the only place that opens images, and only below an item's root."""

import os
import stat
from collections.abc import Iterator, Sequence
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.images import UNREADABLE, Reject
from ucdr_ray.sources.item import Item
from ucdr_ray.sources.parquet import image_column

_ROWS = 32


def read_items(items: Sequence[Item], max_bytes: int) -> Iterator[tuple[Item, bytes | Reject]]:
    """Each item with its encoded bytes, or with the reason why they can't be had, in the order given."""
    for (kind, file), group in groupby(items, key=lambda item: (item.kind, item.file)):
        if kind == "file":
            yield from ((item, _file(item, max_bytes)) for item in group)
        elif kind == "tar":
            yield from _tar(file, list(group), max_bytes)
        else:
            yield from _parquet(file, list(group), max_bytes)


def _file(item: Item, max_bytes: int) -> bytes | Reject:
    try:
        real = os.path.realpath(item.file)
        if os.path.commonpath([real, item.root]) != item.root:
            return Reject("leads outside the source's root")
        # Non-blocking, so that a pipe named like an image can't stop the job.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        return Reject(f"{UNREADABLE}: {error.strerror}")
    except ValueError:
        return Reject(f"{UNREADABLE}: its name holds a null byte")
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Reject("not a regular file")
        if status.st_size > max_bytes:
            return Reject(_too_long(status.st_size))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size + 1)  # not max_bytes: as much would be set aside at once
    except OSError as error:
        return Reject(f"{UNREADABLE}: {error.strerror}")
    finally:
        os.close(descriptor)


def _tar(path: bytes, items: list[Item], max_bytes: int) -> Iterator[tuple[Item, bytes | Reject]]:
    for item in items:
        offset, length = item.at
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                yield item, file.read(length) if length <= max_bytes else Reject(_too_long(length))
        except OSError as error:
            yield item, Reject(f"{UNREADABLE}: {error.strerror}")


def _parquet(path: bytes, items: list[Item], max_bytes: int) -> Iterator[tuple[Item, bytes | Reject]]:
    for group, members in groupby(items, key=lambda item: item.at[0]):
        waiting = list(members)
        try:
            for row, data in _row_group(path, group, last=waiting[-1].at[1]):
                if waiting[0].at[1] == row:
                    yield waiting.pop(0), data if len(data) <= max_bytes else Reject(_too_long(len(data)))
        except (pa.ArrowException, OSError) as error:
            yield from ((item, Reject(f"unreadable Parquet: {type(error).__name__}")) for item in waiting)


def _row_group(path: bytes, group: int, last: int) -> Iterator[tuple[int, bytes]]:
    """Rows 0 to ``last`` of a row group, few at a time: a row group may be larger than memory allows."""
    with pq.ParquetFile(os.fsdecode(path)) as file:
        column = image_column(file.schema_arrow) or "image"
        row = 0
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
            values = batch.column("image")
            if pa.types.is_struct(values.type):
                values = values.field("bytes")
            for value in values:
                yield row, value.as_py() or b""
                if row == last:
                    return
                row += 1


def _too_long(size: int) -> str:
    return f"{size} bytes: more than any image within the pixel limit needs"
