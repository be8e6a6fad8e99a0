"""Folder trees: ``<domain>/<class>/<file>`` and ``<domain>/<file>``; ``DOMAIN=FOLDER`` has no first level."""

import os
from collections.abc import Iterator

from ucdr_ray.errors import UserError
from ucdr_ray.sources.item import Item, Source, text_of


def items(source: Source) -> Iterator[Item]:
    """Files by name, folder by folder. The class is the folder that holds the file, if that is not the domain's own.

    Names that start with a dot are left out, as are files that lie beside the domain folders. Folders behind
    symbolic links are not entered: such a link is an item, which reading rejects.

    Raises:
        UserError: there is no domain folder.
    """
    root = os.path.realpath(os.fsencode(source.path))
    if source.domain is not None:
        yield from _tree(root, root, source.domain, prefix="")
        return
    try:
        domains = [entry for entry in _entries(root) if os.path.isdir(entry.path)]
    except OSError as error:
        raise UserError(f"source {source.path}: {error.strerror}") from None
    if not domains:
        raise UserError(
            f"source {source.path}: no folders in it; expected <domain>/<class>/<file> or <domain>/<file> "
            f"(for a folder that is one domain: DOMAIN={source.path})"
        )
    for entry in domains:
        name = text_of(entry.name)
        if entry.is_symlink():
            yield _item(entry, root, name, name, None)
        else:
            yield from _tree(entry.path, root, name, prefix=f"{name}/")


def _tree(folder: bytes, root: bytes, domain: str, prefix: str, label: str | None = None) -> Iterator[Item]:
    try:
        entries = _entries(folder)
    except OSError:  # One folder that can't be read is one item, which reading rejects.
        yield Item(domain, prefix.rstrip("/"), label, "file", folder, root, (0, 0), 0, 0)
        return
    for entry in entries:
        name = text_of(entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _tree(entry.path, root, domain, f"{prefix}{name}/", name)
        else:
            yield _item(entry, root, domain, f"{prefix}{name}", label)


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    """Of one folder, sorted: the only part of a listing that is held in memory."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(b".")]
    return sorted(visible, key=lambda entry: entry.name)


def _item(entry: os.DirEntry[bytes], root: bytes, domain: str, source: str, label: str | None) -> Item:
    try:
        status = entry.stat()
        size, stamp = status.st_size, status.st_mtime_ns
    except OSError:  # A broken link or a file that has just gone: reading says so, as a reject.
        size, stamp = 0, 0
    return Item(domain, source, label, "file", entry.path, root, (0, 0), size, stamp)
