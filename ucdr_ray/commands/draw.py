"""`ucdr draw`: the embedded data, as a folder of images."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ucdr_ray.errors import UserError


def draw(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to make, or to draw again.")],
    per_class: Annotated[int, typer.Option(metavar="N", help="Drawings of each object in each style.")] = 60,
    size: Annotated[int, typer.Option(metavar="N", help="Pixels a side, 16 to 1024.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", help="Another seed gives other drawings.")] = 0,
    styles: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these of clipart, painting, photo, sketch.")
    ] = None,
    objects: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these objects, such as cat,house,umbrella.")
    ] = None,
) -> None:
    """Draw the embedded data: everyday objects in four styles, for trying everything without a download.

    Writes FOLDER/<style>/<object>/<number>.png, which `ucdr ingest FOLDER` reads as domains and classes. The same
    call draws the same pictures on every machine of the same kind. Interrupted, it leaves nothing behind.

    Example: ucdr draw --out drawings --per-class 60 --size 64
    """
    from ucdr_ray.drawings.folder import write_folder
    from ucdr_ray.drawings.objects import OBJECTS
    from ucdr_ray.drawings.styles import STYLES
    from ucdr_ray.progress import progress

    chosen_styles = _names("--styles", styles) or list(STYLES)
    chosen_objects = _names("--objects", objects) or list(OBJECTS)
    total = per_class * len(chosen_styles) * len(chosen_objects)
    started = time.monotonic()
    with progress("draw", "images", total) as meter:
        write_folder(out, per_class, size, seed, chosen_styles, chosen_objects, meter.advance)
    seconds = time.monotonic() - started
    typer.echo(
        f"{total:,} drawings ({per_class:,} × {len(chosen_objects)} objects × {len(chosen_styles)} styles, {size} px) "
        f"in {out}, {seconds:.1f} s, {60 * total / seconds:,.0f} a minute"
    )


def _names(option: str, text: str | None) -> list[str]:
    """Split ``a,b``; an empty list without the option."""
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"{option} {text}: it takes different names with commas between them")
    return names
