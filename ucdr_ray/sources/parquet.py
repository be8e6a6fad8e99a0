"""Parquet files with an ``image`` column of encoded bytes, or of Hugging Face's ``{bytes, path}``."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ucdr_ray.errors import UserError
from ucdr_ray.sources.item import Item, Source, text_of

_ROWS = 4096


def items(source: Source) -> Iterator[Item]:
    """Rows in order. Optional columns: ``domain``, ``label`` (text, or a whole number), ``source`` (a name).

    The domain is ``source.domain``, else the column, else the file's name. Numbers of a Hugging Face ClassLabel
    become their names.

    Raises:
        UserError: not Parquet, or no such image column.
    """
    status = os.stat(source.path)
    path = os.path.realpath(os.fsencode(source.path))
    try:
        with pq.ParquetFile(source.path) as file:
            schema = file.schema_arrow
            column = image_column(schema)
            if column is None:
                raise UserError(
                    f"source {source.path}: no column `image` of encoded bytes; its columns: {', '.join(schema.names)}"
                )
            names = [name for name in ("domain", "label", "source") if name in schema.names]
            if column == "image.bytes" and any(field.name == "path" for field in schema.field("image").type):
                names.append("image.path")
            classes = {name: _class_names(schema, name) for name in ("domain", "label")}
            for group in range(file.num_row_groups):
                facts = file.metadata.row_group(group)
                size = facts.total_byte_size // max(1, facts.num_rows)
                for row, values in enumerate(_rows(file, group, names, facts.num_rows)):
                    domain, label = (_text(values.get(column), classes[column]) for column in classes)
                    name = values.get("source") or (values.get("image") or {}).get("path") or f"{group}-{row}"
                    yield Item(
                        source.domain or domain or source.path.stem,
                        f"{source.path.name}/{text_of(str(name))}",
                        label,
                        "parquet",
                        path,
                        path,
                        (group, row),
                        size,
                        status.st_mtime_ns,
                    )
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
    ) as error:  # text that is none, a date beyond all
        raise UserError(f"source {source.path}: unreadable Parquet: {str(error).splitlines()[0]}") from None


def image_column(schema: pa.Schema) -> str | None:
    """The path of the column of encoded bytes: ``image`` or ``image.bytes``."""
    if schema.names.count("image") != 1:
        return None
    kind = schema.field("image").type
    if _is_bytes(kind):
        return "image"
    if (
        pa.types.is_struct(kind)
        and kind.get_field_index("bytes") >= 0
        and _is_bytes(kind.field("bytes").type)
    ):
        return "image.bytes"
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _rows(file: pq.ParquetFile, group: int, names: list[str], count: int) -> Iterator[dict[str, Any]]:
    if not names:
        yield from ({} for _ in range(count))
        return
    for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=names):
        yield from batch.to_pylist()


def _text(value: Any, classes: list[str]) -> str | None:
    """A value as text, a class's number as its name; None stays None."""
    if isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    return None if value is None else str(value)


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Names of a Hugging Face ClassLabel column, else nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
