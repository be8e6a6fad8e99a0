"""`ucdr embed`: images to vectors, with a trained model or a backbone as it is."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ucdr_ray.errors import UserError


def embed(
    catalog: Annotated[Path, typer.Option(metavar="CATALOG", help="The images; made by ucdr ingest.")],
    out: Annotated[Path, typer.Option(metavar="EMBEDDINGS", help="The folder to write; made if missing.")],
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Use the encoder that this run trained.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Use a backbone without training: the baseline.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="N", min=16, help="With --backbone: side in pixels.")
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images at a time through the encoder.")
    ] = 64,
    domains: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these domains; all without it.")
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write counts for programs; - for standard output."),
    ] = None,
) -> None:
    """Embed every image of a catalog, in parallel; interrupted, the same command goes on where it stopped.

    Writes unit vectors by domain as Parquet (id, domain, slot, vector), and the encoder beside them.

    Example: ucdr embed --run runs/pacs --catalog catalogs/pacs --out embeddings/pacs

    Example: ucdr embed --backbone weights/mobilenet_v2 --size 96 --catalog catalogs/pacs --out embeddings/zero
    """
    if (run is None) == (backbone is None):
        raise UserError("say what to embed with: exactly one of --run RUN and --backbone FOLDER")
    if size is not None and backbone is None:
        raise UserError("--size goes with --backbone; a run has its own")
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.cluster.embedding import embed as run_job
    from ucdr_ray.files import write_json
    from ucdr_ray.models.encoder import Encoder

    started = time.monotonic()
    opened = Catalog.open(catalog)
    names = [opened.domain(name.strip()).name for name in domains.split(",")] if domains else None
    encoder = Encoder.load(run / "encoder") if run is not None else Encoder.from_backbone(str(backbone), size)
    made = run_job(encoder, opened, out, names, batch)
    summary = {
        "embeddings": str(out),
        "model": made.model.model_dump(),
        "dim": made.dim,
        "domains": {domain.name: domain.rows for domain in made.domains},
        "rows": sum(domain.rows for domain in made.domains),
        "seconds": round(time.monotonic() - started, 2),
    }
    if json_file == "-":
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    if json_file is not None:
        write_json(Path(json_file), summary)
    typer.echo(
        f"{out}: {summary['rows']:,} vectors of {made.dim} numbers in {len(made.domains)} domains, "
        f"by {made.model.name}, in {summary['seconds']:,.0f} s"
    )
