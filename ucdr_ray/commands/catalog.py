"""`ucdr catalog`: what is in a catalog, and whether it is whole."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ucdr_ray.catalog import Catalog

app = typer.Typer(help="Look into a catalog that `ucdr ingest` has made.", no_args_is_help=True)

CatalogArgument = Annotated[
    Path, typer.Argument(metavar="CATALOG", help="The folder that `ucdr ingest --out` wrote.")
]
JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write this for programs; - for standard output."),
]


@app.command()
def info(catalog: CatalogArgument, json_file: JsonOption = None) -> None:
    """Show domains, counts, and what was left out; reads the manifest alone.

    Example: ucdr catalog info catalogs/pacs
    """
    from ucdr_ray.catalog import Catalog

    report(summary(Catalog.open(catalog, verify=False)), json_file)


@app.command()
def verify(catalog: CatalogArgument, json_file: JsonOption = None) -> None:
    """Hold every part against its checksum and count anew; exits with 2 and names the file if one is damaged.

    Example: ucdr catalog verify catalogs/pacs
    """
    from ucdr_ray.catalog import Catalog

    opened = Catalog.open(catalog, verify=True)
    opened.verify_counts()
    report(summary(opened) | {"verified": True}, json_file)


def summary(catalog: "Catalog") -> dict[str, Any]:
    """Counts of a catalog, for programs."""
    manifest = catalog.manifest
    return {
        "catalog": str(catalog.path),
        "fingerprint": manifest.fingerprint,
        "images": sum(domain.images for domain in manifest.domains),
        "bytes": sum(part.bytes for domain in manifest.domains for part in domain.parts),
        "domains": {
            domain.name: {"images": domain.images, "labelled": domain.labelled, "classes": domain.classes}
            for domain in manifest.domains
        },
        "classes": len(manifest.classes),
        "max_side": manifest.max_side,
        "duplicates": manifest.duplicates,
        "rejects": manifest.rejects,
        "sources": manifest.sources,
    }


def report(found: dict[str, Any], json_file: Path | None) -> None:
    """Write a summary to ``json_file``, and as a table to standard output unless the file is that."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ucdr_ray.files import write_json

    if str(json_file) == "-":
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if json_file is not None:
        write_json(json_file, found)
    table = Table("domain", title=escape(f"catalog {found['catalog']}"), title_justify="left")
    for heading in ("images", "with label", "classes"):
        table.add_column(heading, justify="right")
    for name, counts in found["domains"].items():
        table.add_row(
            escape(name), f"{counts['images']:,}", f"{counts['labelled']:,}", f"{counts['classes']:,}"
        )
    console = Console()
    console.print(table)
    console.print(
        f"{found['images']:,} images, {found['bytes'] / 1e6:,.1f} MB, fingerprint {found['fingerprint'][:12]}",
        highlight=False,
    )
    for what in ("rejects", "duplicates"):
        where = f": {Path(found['catalog']) / what}.parquet" if found[what] else ""
        console.print(f"{found[what]:,} {what}{where}", highlight=False, markup=False, soft_wrap=True)
    if "verified" in found:
        console.print("every part matches its checksum")
