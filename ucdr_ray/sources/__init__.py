"""Where images come from: one reader per kind of source, all giving the same stream of items."""

from collections.abc import Iterator
from pathlib import Path

from ucdr_ray.errors import UserError
from ucdr_ray.sources import folder, listfile, parquet, webdataset
from ucdr_ray.sources.item import Item, Kind, Source, check_domain, text_of

_READERS = {"folder": folder.items, "list": listfile.items, "parquet": parquet.items, "tar": webdataset.items}
_KINDS: dict[str, Kind] = {".txt": "list", ".parquet": "parquet", ".tar": "tar"}


def parse_source(text: str, root: Path | None = None) -> Source:
    """``PATH`` or ``DOMAIN=PATH`` to a source whose kind follows from what it is: a folder, .txt, .parquet or .tar.

    ``root`` is where a list file's relative paths start; without it, the list's own folder.

    Raises:
        UserError: nothing is there, or it is of no known kind.
    """
    path, domain = Path(text), None
    if not path.exists() and "=" in text:
        name, _, rest = text.partition("=")
        path, domain = Path(rest), check_domain(name, f"source {text}")
    if not path.exists():
        raise UserError(f"source {text}: nothing at {path}")
    kind = "folder" if path.is_dir() else _KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"source {path}: not a folder, .txt list, .parquet or uncompressed .tar")
    return Source(text, kind, path, (root or path.parent) if kind == "list" else path, domain)


def list_items(sources: list[Source], label_base: int | None = None) -> Iterator[Item]:
    """All items of all sources, in an order that depends on their content alone. Raises ``UserError``."""
    for source in listfile.settle_labels(sources, label_base):
        for item in _READERS[source.kind](source):
            yield item if item.label is None else item._replace(label=text_of(item.label))
