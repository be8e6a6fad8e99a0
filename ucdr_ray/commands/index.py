"""`ucdr index`: build a version of a search index, check it, list what there is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ucdr_ray.errors import UserError

if TYPE_CHECKING:
    from ucdr_ray.index.manifest import Manifest

app = typer.Typer(help="Build, verify and list the versions of a search index.", no_args_is_help=True)

IndexArgument = Annotated[
    Path, typer.Argument(metavar="INDEX", help="The folder that `ucdr index build --out` wrote.")
]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write this for programs; - for standard output.")
]


@app.command()
def build(
    embeddings: Annotated[
        Path, typer.Argument(metavar="EMBEDDINGS", help="The folder that `ucdr embed` wrote.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="INDEX", help="The index; a new version is added if it exists.")
    ],
    catalog: Annotated[
        Path | None,
        typer.Option(metavar="CATALOG", help="Where the embedded catalog lies now, if it has moved since."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Build a new version and put it in use, once it is complete and finds its own images.

    Versions never change; until the new one is in use, and if anything fails, the old one stays in use.

    Example: ucdr index build embeddings/pacs --out index/pacs
    """
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.embeddings import Embeddings
    from ucdr_ray.index.build import build as run
    from ucdr_ray.progress import progress

    source = Embeddings.open(embeddings)
    place = catalog or Path(source.catalog.path)
    if not place.is_dir():
        raise UserError(
            f"no catalog at {place}, from which {embeddings} was made; say where it is: --catalog CATALOG"
        )
    with progress("index", "images", sum(domain.rows for domain in source.domains)) as meter:
        index = run(source, Catalog.open(place), out, advance=meter.advance)
    summary = _summary(index.version, index.manifest)
    if not _wrote(summary, json_file):
        typer.echo(
            f"{out}: version {index.version} is in use: {summary['rows']:,} images of "
            f"{len(summary['domains'])} domains, {_megabytes(summary['bytes'])}"
        )


@app.command()
def verify(index: IndexArgument, json_file: JsonOption = None) -> None:
    """Read every version whole: checksums, shards, metadata, encoder. Exits with 2, naming it, if a file is damaged.

    Example: ucdr index verify index/pacs
    """
    from ucdr_ray.index.search import Index, OpenDomain
    from ucdr_ray.index.versions import current, versions

    used = current(index)
    names = versions(index)
    for name in names:
        opened = Index.open(index, name)
        _ = opened.encoder
        for domain in opened.manifest.domains:
            OpenDomain(opened.folder, opened.manifest, domain)
    if not _wrote({"index": str(index), "current": used, "verified": names}, json_file):
        for name in names:
            typer.echo(f"ok: {name}{' (in use)' if name == used else ''}")


@app.command(name="list")
def list_versions(index: IndexArgument, json_file: JsonOption = None) -> None:
    """List the versions, the one in use marked; reads the manifests alone.

    Example: ucdr index list index/pacs
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ucdr_ray.index.versions import current, read_manifest, versions

    used = current(index)
    summaries = [_summary(name, read_manifest(index, name)) for name in versions(index)]
    if _wrote({"index": str(index), "current": used, "versions": summaries}, json_file):
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("", "version", "created (UTC)", "model", "dim", "images", "size"):
        right = heading in ("dim", "size")
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=heading in ("version", "size"),
            overflow="fold",
        )
    for row in summaries:
        cells = (
            "*" if row["version"] == used else "",
            row["version"],
            row["created"][:16].replace("T", " "),
            row["model"]["name"],
            str(row["dim"]),
            "\n".join(f"{name} {rows:,}" for name, rows in row["domains"].items()),
            _megabytes(row["bytes"]),
        )
        table.add_row(*map(Text, cells))  # a name with brackets is no markup
    Console().print(table)


def _summary(name: str, manifest: "Manifest") -> dict[str, Any]:
    return {
        "version": name,
        "created": manifest.created,
        "model": manifest.model.model_dump(),
        "dim": manifest.dim,
        "domains": {domain: manifest.rows_of(domain) for domain in manifest.domains},
        "rows": manifest.totals.rows,
        "bytes": manifest.totals.bytes,
    }


def _wrote(value: dict[str, Any], json_file: str | None) -> bool:
    """Write ``value`` where asked; true if it went to standard output, where nothing else may follow."""
    from ucdr_ray.files import write_json

    if json_file == "-":
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return True
    if json_file is not None:
        write_json(Path(json_file), value)
    return False


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
