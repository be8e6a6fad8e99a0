"""`ucdr index add|delete|compact|tune|rollback`: each puts another version in use, at once, with servers running."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ucdr_ray.commands.index import (
    CatalogOption,
    EmbeddingsArgument,
    IndexArgument,
    JsonOption,
    app,
    opened,
    told,
)
from ucdr_ray.errors import UserError


@app.command()
def add(
    index: IndexArgument,
    embeddings: EmbeddingsArgument,
    catalog: CatalogOption = None,
    json_file: JsonOption = None,
) -> None:
    """Add the images that their domain does not have yet, and new domains. Nothing that is there is written anew.

    Example: ucdr index add index/pacs embeddings/new
    """
    from ucdr_ray.cluster.index_shards import write_shards
    from ucdr_ray.index.change import add as run
    from ucdr_ray.index.versions import current
    from ucdr_ray.progress import progress

    before = current(index)
    source, pictures = opened(embeddings, catalog)
    with progress("add", "images", sum(domain.rows for domain in source.domains)) as meter:
        after = run(index, source, pictures, meter.advance, write_shards)
    if after.version == before:
        typer.echo(f"{index} has all of these images already", err=True)
    told(index, after, json_file)


@app.command()
def delete(
    index: IndexArgument,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="As `ucdr search --json` gives them.")
    ] = None,
    ids_file: Annotated[
        Path | None,
        typer.Option("--ids", metavar="FILE", help="More ids, one in each line; - for standard input."),
    ] = None,
    domains: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only in these domains; everywhere without it.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Let no search find these images any more. `ucdr index compact` removes them from the files.

    Example: ucdr index delete index/pacs 3f2a9c0d5e6b7a8190a1b2c3d4e5f607
    """
    from ucdr_ray.index.change import delete as run

    wanted = [*(ids or []), *([] if ids_file is None else _lines(ids_file))]
    if not wanted:
        raise UserError("no ids: name them, or give a file of them with --ids FILE")
    names = None if domains is None else [name.strip() for name in domains.split(",")]
    told(index, run(index, wanted, names), json_file)


@app.command()
def compact(index: IndexArgument, json_file: JsonOption = None) -> None:
    """Write everything that can be found anew: without deleted images, and with added ones among the others.

    Example: ucdr index compact index/pacs
    """
    from ucdr_ray.cluster.index_shards import write_shards
    from ucdr_ray.index.change import compact as run
    from ucdr_ray.index.versions import current, read_manifest
    from ucdr_ray.progress import progress

    rows = read_manifest(index, current(index)).totals.rows
    with progress("compact", "images", rows) as meter:
        after = run(index, meter.advance, write_shards)
    told(index, after, json_file)


@app.command()
def tune(
    index: IndexArgument,
    recall: Annotated[
        float,
        typer.Option(
            help="Share of the exact top 10 to be found, for queries of every domain in every other."
        ),
    ],
    json_file: JsonOption = None,
) -> None:
    """Let searches work as hard as a recall asks for, and no harder; no vector is written anew.

    Example: ucdr index tune index/pacs --recall 0.99
    """
    from ucdr_ray.index.change import tune as run

    if not 0 < recall <= 1:
        raise UserError(f"--recall {recall:g}: allowed are shares above 0, up to 1")
    told(index, run(index, recall), json_file)


@app.command()
def rollback(
    index: IndexArgument,
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", help="This one; the one before without it.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Put an earlier version in use again, once it is found whole.

    Example: ucdr index rollback index/pacs
    """
    from ucdr_ray.index.change import rollback as run

    told(index, run(index, to), json_file)


def _lines(file: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--ids {file}: not text") from None
    return text.split()
