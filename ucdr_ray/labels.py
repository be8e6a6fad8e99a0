"""Which label an image gets: its class in the source, its file's stem, a CSV's column, or none."""

import csv
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ucdr_ray.errors import UserError
from ucdr_ray.sources.item import Item

Labeller = Callable[[Item], str | None]

_CSV = re.compile(r"^(?P<path>.+\.csv)(?::(?P<name>[^:]+):(?P<label>[^:]+))?$", re.IGNORECASE)


def labeller(text: str) -> Labeller:
    """The rule that ``--labels`` names.

    * ``folder``: what the source says: class folder, a list's or a tar's label, a Parquet file's column.
    * ``stem``: the file's name without extension, so that equal names in two domains are the same thing.
    * ``none``.
    * ``FILE.csv`` or ``FILE.csv:NAME:LABEL``: the label in column LABEL of the row whose column NAME (first and second
      column by default) is the image's path in its source, file name, or stem, sought in this order.

    Raises:
        UserError: no such rule, file or column.
    """
    if text == "folder":
        return lambda item: item.label
    if text == "stem":
        return lambda item: PurePosixPath(item.source).stem
    if text == "none":
        return lambda item: None
    if match := _CSV.match(text):
        table = _read(Path(match["path"]), match["name"], match["label"])
        return lambda item: _look_up(table, item)
    raise UserError(f"--labels {text}: allowed are folder, stem, none, FILE.csv and FILE.csv:NAME:LABEL")


def _look_up(table: dict[str, str], item: Item) -> str | None:
    path = PurePosixPath(item.source)
    return next((table[name] for name in (item.source, path.name, path.stem) if name in table), None)


def _read(path: Path, key: str | None, label: str | None) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = list(rows.fieldnames or [])
            if len(columns) < 2:
                raise UserError(f"label file {path}: needs a first line that names at least two columns")
            key, label = key or columns[0], label or columns[1]
            if missing := [name for name in (key, label) if name not in columns]:
                raise UserError(f"label file {path}: no column {missing[0]!r}; it has: {', '.join(columns)}")
            table: dict[str, str] = {}
            labels: dict[str, str] = {}  # one text for all images of a label
            for row in rows:
                name, value = row[key] or "", row[label] or ""
                if table.setdefault(name, labels.setdefault(value, value)) != value:
                    raise UserError(
                        f"label file {path}: two labels for {name!r}: {table[name]!r} and {value!r}"
                    )
            return {name: value for name, value in table.items() if name and value}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"label file {path}: {getattr(error, 'strerror', None) or error}") from None
