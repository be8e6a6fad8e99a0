"""`ucdr index`: build a version of a search index, check it, list what there is; changes are in `index_change`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ucdr_ray.errors import UserError

if TYPE_CHECKING:
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.embeddings import Embeddings
    from ucdr_ray.index.manifest import Manifest
    from ucdr_ray.index.plan import Plan
    from ucdr_ray.index.search import Index

app = typer.Typer(help="Build, change, verify and list the versions of a search index.", no_args_is_help=True)

IndexArgument = Annotated[
    Path, typer.Argument(metavar="INDEX", help="The folder that `ucdr index build --out` wrote.")
]
EmbeddingsArgument = Annotated[
    Path, typer.Argument(metavar="EMBEDDINGS", help="The folder that `ucdr embed` wrote.")
]
CatalogOption = Annotated[
    Path | None,
    typer.Option(metavar="CATALOG", help="Where the embedded catalog lies now, if it has moved since."),
]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write this for programs; - for standard output.")
]


@app.command()
def build(
    embeddings: EmbeddingsArgument,
    out: Annotated[
        Path, typer.Option(metavar="INDEX", help="The index; a new version is added if it exists.")
    ],
    catalog: CatalogOption = None,
    kind: Annotated[
        Literal["auto", "exact", "ivf-flat", "ivf-sq8", "ivf-pq", "hnsw", "binary"],
        typer.Option(
            help="How shards of 1,000 images and more are searched. exact compares with all; the others find "
            "candidates faster, which are then scored exactly. auto: exact up to 20,000 images a shard, else the "
            "smallest that reaches the recall."
        ),
    ] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What a process that holds the index may take, such as 2GB."),
    ] = None,
    recall: Annotated[
        float,
        typer.Option(
            help="Share of the exact top 10 to be found, for queries of every domain in every other."
        ),
    ] = 0.97,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            help="Learn what domains have in common, so that a search may answer: nothing here matches. For "
            "features that bring domains together: look at what it says would be refused.",
        ),
    ] = False,
    null_quantile: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="With --null: an image counts as near up to this quantile of the distances between images of the "
            "same. Less refuses more.",
        ),
    ] = 1.0,
    json_file: JsonOption = None,
) -> None:
    """Build a new version and put it in use, once it is complete and finds its own images.

    It says what it will take of memory and disk before anything is written. Many shards are written by Ray, at once.

    Versions never change; until the new one is in use, and if anything fails, the old one stays in use.

    Example: ucdr index build embeddings/pacs --out index/pacs --memory 2GB --recall 0.98
    """
    from ucdr_ray.cluster.index_shards import write_shards
    from ucdr_ray.index.build import ROWS_PER_SHARD
    from ucdr_ray.index.build import build as run
    from ucdr_ray.index.judging import check_quantile
    from ucdr_ray.index.plan import plan
    from ucdr_ray.index.source import Embedded
    from ucdr_ray.progress import progress

    if not 0 < recall <= 1:
        raise UserError(f"--recall {recall:g}: allowed are shares above 0, up to 1")
    check_quantile(null_quantile)
    source, pictures = opened(embeddings, catalog)
    limit = None if memory is None else _bytes(memory)
    place = Embedded(embeddings, pictures.path)
    chosen = plan(source, place, None if kind == "auto" else kind, limit, recall, ROWS_PER_SHARD)
    _tell(chosen)
    with progress("index", "images", sum(domain.rows for domain in source.domains)) as meter:
        index = run(
            source,
            pictures,
            out,
            chosen.chosen.kind,
            recall,
            null=null_quantile if null else None,
            advance=meter.advance,
            write_shards=write_shards,
        )
    told(out, index, json_file, {"estimate": vars(chosen.chosen)})


def opened(embeddings: Path, catalog: Path | None) -> "tuple[Embeddings, Catalog]":
    """The embeddings, and the catalog they were made from.

    Raises:
        UserError: either is missing or damaged.
    """
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.embeddings import Embeddings

    source = Embeddings.open(embeddings)
    place = catalog or Path(source.catalog.path)
    if not place.is_dir():
        raise UserError(
            f"no catalog at {place}, from which {embeddings} was made; say where it is: --catalog CATALOG"
        )
    return source, Catalog.open(place)


def told(out: Path, index: "Index", json_file: str | None, more: dict[str, Any] | None = None) -> None:
    """Say which version is in use now."""
    summary = _summary(index.version, index.manifest) | (more or {})
    if not wrote(summary, json_file):
        worst = min((pair.recall for pair in index.manifest.recalls), default=None)
        typer.echo(
            f"{out}: version {index.version} is in use: {summary['rows']:,} images of "
            f"{len(summary['domains'])} domains, {megabytes(summary['bytes'])}, {summary['kind']}"
            + ("" if worst is None else f", recall at 10 at least {worst:.1%} between any two domains")
        )
        for one in index.manifest.common.refused if index.manifest.common else ():
            typer.echo(f"{one.query} -> {one.gallery}: of {one.share:.0%} of its images nothing would match")


def _tell(plan: "Plan") -> None:
    """The estimate, to standard error, before the work."""
    for estimate in plan.compared:
        mark = "chosen" if estimate.kind == plan.chosen.kind else ""
        typer.echo(
            f"{estimate.kind:>9}: {megabytes(estimate.memory):>12} of memory, {megabytes(estimate.disk):>12} of disk, "
            f"recall {estimate.recall:.3f}  {mark}",
            err=True,
        )
    estimate = plan.chosen
    typer.echo(
        f"{estimate.kind}: {megabytes(estimate.memory)} of memory, {megabytes(estimate.disk)} of disk, "
        "thumbnails not counted",
        err=True,
    )


def _bytes(size: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        raise UserError(f"--memory {size}: allowed is a size such as 500MB or 2GB") from None


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
    if not wrote({"index": str(index), "current": used, "verified": names}, json_file):
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
    if wrote({"index": str(index), "current": used, "versions": summaries}, json_file):
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("", "version", "created (UTC)", "model", "dim", "kind", "images", "size"):
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
            row["kind"],
            "\n".join(f"{name} {rows:,}" for name, rows in row["domains"].items()),
            megabytes(row["bytes"]),
        )
        table.add_row(*map(Text, cells))  # a name with brackets is no markup
    Console().print(table)


def _summary(name: str, manifest: "Manifest") -> dict[str, Any]:
    return {
        "version": name,
        "created": manifest.created,
        "before": manifest.before,
        "model": manifest.model.model_dump(),
        "dim": manifest.dim,
        "kind": manifest.kind,
        "shards": len(manifest.shards),
        "deleted": sum(entry.rows - entry.live for entry in manifest.shards),
        "recalls": [pair.model_dump() for pair in manifest.recalls],
        "domains": {domain: manifest.rows_of(domain) for domain in manifest.domains},
        "rows": manifest.totals.rows,
        "bytes": manifest.totals.bytes,
    }


def wrote(value: dict[str, Any], json_file: str | None) -> bool:
    """Write ``value`` where asked; true if it went to standard output, where nothing else may follow."""
    from ucdr_ray.files import write_json

    if json_file == "-":
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return True
    if json_file is not None:
        write_json(Path(json_file), value)
    return False


def megabytes(size: int) -> str:
    """For people."""
    return f"{size / 1e6:,.1f} MB"
