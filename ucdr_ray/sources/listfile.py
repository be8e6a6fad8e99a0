"""List files of this field: one ``path label`` a line, labels from 0 or from 1, blanks allowed in the path."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ucdr_ray.errors import UserError
from ucdr_ray.sources.item import Item, Source, place, text_of

_PROBES = 20


def parse_line(line: str) -> tuple[str, int | None] | None:
    """``path`` and label of a line, the label None where its last word is not a whole number; None if it is blank."""
    line = line.strip()
    if not line:
        return None
    words = line.rsplit(None, 1)
    if len(words) == 2 and words[1].isascii() and words[1].isdecimal() and len(words[1]) < 19:
        return words[0], int(words[1])
    return line, None


def items(source: Source) -> Iterator[Item]:
    """Images in the list's own order. Paths are relative to ``source.root`` or absolute below it.

    The domain is ``source.domain``; else the first folder, where all paths have the form ``domain/class/file``;
    else the list's name. Raises ``UserError``.
    """
    facts = _Facts.of(source)
    root = os.path.realpath(os.fsencode(source.root))
    for path, number in _lines(source):
        first, last = place(path)
        domain = source.domain or (first if facts.deep else None) or source.path.stem
        if number is None:
            label = last if facts.deep else None  # a lone folder is as likely a domain as a class
        else:
            label = last if source.label_base is None else str(number - source.label_base)
        file = os.path.join(root, os.fsencode(path))
        try:
            status = os.stat(file)
            size, stamp = status.st_size, status.st_mtime_ns
        except (OSError, ValueError):  # Gone, or no possible name: reading says so, as a reject.
            size, stamp = 0, 0
        yield Item(domain, text_of(path), label, "file", file, root, (0, 0), size, stamp)


def settle_labels(sources: list[Source], base: int | None) -> list[Source]:
    """Decide how labels are named, for all lists together, so that they agree across domains.

    With ``base`` None (auto): where every list's labels and folders go together one to one, labels are the
    folders' names; else numbers, counted from the smallest label in any list.

    Raises:
        UserError: the lists seem to count from different numbers, or a label is below ``base``.
    """
    facts = {source: _Facts.of(source) for source in sources if source.kind == "list"}
    if base is None and not all(fact.named for fact in facts.values()):
        base = _common_base(facts)
    for source, fact in facts.items():
        if base is not None and fact.lowest is not None and fact.lowest < base:
            raise UserError(f"{source.path}: has label {fact.lowest}, below --label-base {base}")
    return [replace(source, label_base=base) if source in facts else source for source in sources]


def _common_base(facts: "dict[Source, _Facts]") -> int:
    """The smallest label of all lists, if that is 0 or 1 and no two lists look as if they counted differently."""
    ranges = {(fact.lowest, fact.highest) for fact in facts.values() if fact.lowest is not None}
    lowest = min((low for low, _ in ranges), default=0)
    if lowest > 1:
        raise UserError(f"labels start at {lowest}, not at 0 or 1; say --label-base 0 or 1")
    if any((low - 1, high - 1) in ranges for low, high in ranges if low == 1):
        shown = ", ".join(
            f"{source.path.name} {fact.lowest} to {fact.highest}" for source, fact in facts.items()
        )
        raise UserError(f"some lists count labels from 0 and others from 1 ({shown}); bring them to one base")
    return lowest


@dataclass
class _Facts:
    """What one pass over a list tells; its memory grows with the number of labels, not of lines."""

    lowest: int | None
    highest: int  # -1 without labels
    named: bool  # labels and last folders go together one to one
    deep: bool  # every path is domain/…/class/file

    @classmethod
    def of(cls, source: Source) -> "_Facts":
        names: dict[int, str | None] = {}
        named = deep = True
        for path, number in _lines(source):
            domain, folder = place(path)
            deep = deep and domain is not None
            if number is not None:
                named = names.setdefault(number, folder) == folder is not None and named
        named = named and len(set(names.values())) == len(names)
        return cls(min(names, default=None), max(names, default=-1), named, deep)


def _lines(source: Source) -> Iterator[tuple[str, int | None]]:
    root = os.path.realpath(source.root)
    found, seen = False, 0
    try:
        with open(source.path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                if (entry := parse_line(line)) is None:
                    continue
                path, number = entry
                if os.path.isabs(path):
                    path = os.path.relpath(path, root)
                if not found and seen < _PROBES:
                    found, seen = os.path.lexists(os.path.join(root, path)), seen + 1
                    if not found and seen == _PROBES:
                        raise UserError(_nothing_there(source, path))
                yield os.path.normpath(path), number
    except OSError as error:
        raise UserError(f"cannot read list {source.path}: {error.strerror}") from None
    if not seen:
        raise UserError(f"list {source.path} is empty")
    if not found:
        raise UserError(_nothing_there(source, path))


def _nothing_there(source: Source, path: str) -> str:
    return (
        f"list {source.path}: its first paths don't exist, such as {Path(source.root) / path}; "
        "say with --root where they start"
    )
