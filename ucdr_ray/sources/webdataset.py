"""WebDataset tars, and tars of a folder tree: images are read in place by offset, nothing is unpacked."""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from typing import Any

from ucdr_ray.errors import UserError
from ucdr_ray.sources.item import Item, Source, place, text_of

_IMAGE = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "img", "image"}
_SHARD = re.compile(r"[-_.]?\d+$")
_SIDE_LIMIT = 1 << 20


def items(source: Source) -> Iterator[Item]:
    """Images in the tar's order; members that share a name up to the extension are one sample.

    The domain is ``source.domain``; else ``domain`` in the sample's ``.json``; else the first folder of a name like
    ``domain/class/file``; else the tar's name without its shard number. The label is ``label`` in the ``.json``,
    else ``.cls``, else the class folder. Links are items too, which reading rejects.

    Raises:
        UserError: the tar is damaged, compressed, or no tar.
    """
    status = os.stat(source.path)
    default = _SHARD.sub("", source.path.stem) or source.path.stem
    file = os.path.realpath(os.fsencode(source.path))
    for name, images, facts in _samples(source):
        domain, folder = place(name)
        for member in images:
            # A link has no data: an empty stretch is rejected as an empty file would be.
            length = member.size if member.isreg() and not member.issparse() else 0
            yield Item(
                source.domain or facts.get("domain") or domain or default,
                f"{source.path.name}/{text_of(member.name)}",
                facts.get("label") or facts.get("cls") or (folder if domain or source.domain else None),
                "tar",
                file,
                file,
                (member.offset_data, length),
                length,
                status.st_mtime_ns,
            )


def _samples(source: Source) -> Iterator[tuple[str, list[tarfile.TarInfo], dict[str, str]]]:
    """Runs of members that share a key: its name, the images, and what the side files say."""
    key = ""
    images: list[tarfile.TarInfo] = []
    facts: dict[str, str] = {}
    try:
        with tarfile.open(source.path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header it has seen
                if member.isdir() or os.path.basename(member.name).startswith("."):
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if (found := f"{folder}/{stem}") != key:
                    if images:
                        yield key, images, facts
                    key, images, facts = found, [], {}
                kind = extension.lower().rpartition(".")[2]
                if kind in _IMAGE:
                    images.append(member)
                elif kind in ("cls", "json") and member.isreg() and member.size <= _SIDE_LIMIT:
                    facts |= _facts(tar, member, kind)
            if images:
                yield key, images, facts
            # A damaged header, or a cut between two members, ends the iteration as the closing zeros do.
            if tar.fileobj is not None:
                tar.fileobj.seek(tar.offset)
                if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no closing zeros")
    except (tarfile.ReadError, ValueError) as error:  # ValueError: a sparse file's map that is no map
        raise UserError(
            f"source {source.path}: damaged, or not an uncompressed tar ({error}) after {key.strip('/') or 'nothing'}"
        ) from None


def _facts(tar: tarfile.TarFile, member: tarfile.TarInfo, kind: str) -> dict[str, str]:
    """``domain`` and ``label`` of a sample's .json, or ``cls`` of its .cls."""
    handle = tar.extractfile(member)
    text = handle.read().decode(errors="replace") if handle else ""
    if kind == "cls":
        return {"cls": text.strip()}
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    named = content if isinstance(content, dict) else {}
    return {key: str(named[key]) for key in ("domain", "label") if isinstance(named.get(key), (str, int))}
