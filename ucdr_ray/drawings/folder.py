"""Drawings as a folder of files, the layout that `ucdr ingest` reads: ``<style>/<object>/<index>.png``."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ucdr_ray.drawings.generate import check, iterate
from ucdr_ray.errors import UserError
from ucdr_ray.files import staged_folder, write_json

_RECORD = (
    "drawings.json"  # beside the style folders, where ingest doesn't look: the folder is ours to replace
)


def _check_target(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / _RECORD).is_file() or not os.listdir(out))):
        raise UserError(
            f"{out} exists and holds no drawings; name a new or empty folder, or one drawn before"
        )


def write_folder(
    out: Path,
    per_class: int,
    size: int,
    seed: int,
    styles: Sequence[str],
    objects: Sequence[str],
    drawn: Callable[[int], None],
) -> None:
    """Write ``per_class`` PNG files of each object in each style; ``out`` appears whole or not at all.

    A folder drawn before is replaced. ``drawn`` is called with 1 after every picture.

    Raises:
        UserError: ``out`` can't be written or holds something else; a name, size, seed or count isn't allowed.
    """
    if per_class < 1:
        raise UserError(f"{per_class} drawings per class: there must be 1 or more")
    for style in styles:
        for name in objects:
            check(name, style, size, seed)
    digits = max(4, len(str(per_class - 1)))
    try:
        _check_target(out)
        with staged_folder(out) as folder:
            for drawing in iterate(per_class, size, seed, styles, objects):
                home = folder / drawing.style / drawing.object
                home.mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawing.pixels).save(home / f"{drawing.index:0{digits}}.png")
                drawn(1)
            record = {
                "format": "ucdr-drawings",
                "version": 1,
                "per_class": per_class,
                "size": size,
                "seed": seed,
            }
            write_json(folder / _RECORD, record | {"styles": list(styles), "objects": list(objects)})
    except OSError as error:
        raise UserError(f"can't write drawings to {out}: {error.strerror or error}") from None
