"""What every kind of source yields: items, and the rules for their names."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import pyarrow as pa

from ucdr_ray.errors import UserError

Kind = Literal["folder", "list", "parquet", "tar"]


@dataclass(frozen=True)
class Source:
    """A source as given on the command line.

    Attributes:
        text: as the user wrote it, for messages.
        root: nothing outside this folder (or file) is opened.
        domain: the name given with ``DOMAIN=PATH``; without it, the source says which domain an image is of.
        label_base: of list files: the number that their labels start from; None names labels by folder.
    """

    text: str
    kind: Kind
    path: Path
    root: Path
    domain: str | None = None
    label_base: int | None = None


class Item(NamedTuple):
    """One image to be read: where it is, and what its source says about it.

    ``file`` and ``root`` are bytes because file names need not be text. ``at`` is (offset, length) in a tar and
    (row group, row) in a Parquet file. ``size`` and ``stamp`` (bytes, mtime in ns) tell a changed input.
    """

    domain: str
    source: str
    label: str | None
    kind: str
    file: bytes
    root: bytes
    at: tuple[int, int]
    size: int
    stamp: int

    @property
    def path(self) -> str:
        """Where a person finds it: a path, or one that goes on inside a tar or Parquet file."""
        file = text_of(self.file)
        return file if self.kind == "file" else str(PurePosixPath(file).parent / self.source)


ITEM_SCHEMA = pa.schema(
    [
        ("domain", pa.string()),
        ("source", pa.string()),
        ("label", pa.string()),
        ("kind", pa.string()),
        ("file", pa.binary()),
        ("root", pa.binary()),
        ("at", pa.list_(pa.int64(), 2)),
        ("size", pa.int64()),
        ("stamp", pa.int64()),
    ]
)


def text_of(path: bytes | str) -> str:
    """A path as text that always fits UTF-8: bytes that don't are shown as ``\\xNN``."""
    try:
        raw = path if isinstance(path, bytes) else path.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON may hold it
        raw = str(path).encode(errors="backslashreplace")
    return raw.decode(errors="backslashreplace")


def place(path: str) -> tuple[str | None, str | None]:
    """Domain and class that a relative path tells: its first folder where there are two or more, and its last."""
    folders = [part for part in path.split("/")[:-1] if part not in ("", ".", "..")]
    return (folders[0] if len(folders) > 1 else None), (folders[-1] if folders else None)


def check_domain(name: str, where: str) -> str:
    """A domain name that can be a folder, an item of ``--domains a,b``, and a side of ``photo->sketch``.

    Raises:
        UserError: it is not.
    """
    bad = not name.strip() or name != name.strip() or not name.isprintable() or len(name.encode()) > 120
    if bad or name.startswith(".") or any(mark in name for mark in ("/", ",", "->")):
        raise UserError(
            f"{where}: {name!r} can't name a domain: 1 to 120 bytes of printable text, not starting with a dot, "
            "without '/', ',' or '->'; use DOMAIN=PATH to name it otherwise"
        )
    return name
