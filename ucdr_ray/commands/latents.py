"""`ucdr latents`: what a generator's VAE makes of every image, once."""

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def latents(
    catalog: Annotated[Path, typer.Option(metavar="CATALOG", help="The images; made by ucdr ingest.")],
    out: Annotated[Path, typer.Option(metavar="LATENTS", help="The folder to write; made if missing.")],
    generator: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A text-to-image model in the format of Stable Diffusion: a folder, a hub name whose files are on "
            "this machine, or package:drawings.",
        ),
    ] = "package:drawings",
    size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=16,
            help="Side in pixels of the images: method.generator_size of the training; the model's own without it.",
        ),
    ] = None,
    resize: Annotated[
        Literal["squash", "crop"],
        typer.Option(help="How an image becomes square; as data.resize of the training."),
    ] = "squash",
    flip: Annotated[bool, typer.Option(help="Also of every image flipped.")] = True,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time through the VAE.")] = 16,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write counts for programs; - for standard output."),
    ] = None,
) -> None:
    """Encode every image of a catalog for a generator; interrupted, the same command goes on where it stopped.

    Training with method.name=dude makes latents by itself where it is given none. Make them yourself to share them
    among runs: --set method.latents=LATENTS.

    Example: ucdr latents --catalog catalogs/pacs --generator models/stable-diffusion-v1-5 --size 256 --out latents/pacs
    """
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.cluster.latents import make_latents, settings
    from ucdr_ray.files import write_json

    started = time.monotonic()
    opened = Catalog.open(catalog)
    made = make_latents(generator, opened, out, settings(generator, size, resize, flip), batch)
    manifest = made.manifest
    summary: dict[str, Any] = {
        "latents": str(out),
        "generator": manifest.made_by.codec.model_dump(),
        "size": manifest.made_by.size,
        "shape": manifest.shape,
        "domains": {domain.name: domain.rows for domain in manifest.domains},
        "rows": sum(domain.rows for domain in manifest.domains),
        "bytes": sum(part.bytes for domain in manifest.domains for part in domain.parts),
        "seconds": round(time.monotonic() - started, 2),
    }
    if json_file == "-":
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    if json_file is not None:
        write_json(Path(json_file), summary)
    typer.echo(
        f"{out}: latents of {summary['rows']:,} images at {summary['size']} px, {summary['bytes'] / 1e6:,.0f} MB, "
        f"by {manifest.made_by.codec.name}, in {summary['seconds']:,.0f} s"
    )
