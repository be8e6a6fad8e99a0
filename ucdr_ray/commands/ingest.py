"""`ucdr ingest`: files of any of the known kinds to a catalog."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import write_json

if TYPE_CHECKING:
    from ucdr_ray.expected import Published
    from ucdr_ray.ingest.plan import Plan

_HELP_SOURCES = (
    "Where the images are. A folder: <domain>/<class>/<file> or <domain>/<file>. A .txt list of `path label` lines. "
    "A .parquet file with an `image` column. A .tar (WebDataset, or a packed folder tree). Write DOMAIN=PATH to name "
    "the domain yourself; otherwise it is the domain folder, the first folder of a list's or tar's paths where these "
    "are domain/class/file, the Parquet column or .json field `domain`, and failing these the file's own name."
)


def ingest(
    sources: Annotated[list[str], typer.Argument(metavar="SRC...", help=_HELP_SOURCES)],
    out: Annotated[Path, typer.Option(metavar="CATALOG", help="The folder to write; made if missing.")],
    domains: Annotated[
        str | None, typer.Option(metavar="A,B", help="Take these domains only; all without it.")
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="Labels, which only evaluation reads. folder: what the source says (class folder, list label, .cls, "
            "column). stem: the file's name, so that equal names are the same thing. none. FILE.csv or "
            "FILE.csv:NAME:LABEL: column LABEL of the row whose column NAME is the image's path, file name or stem "
            "(without names: the first two columns).",
        ),
    ] = "folder",
    label_base: Annotated[
        str,
        typer.Option(
            metavar="0|1|auto",
            help="What a list's labels count from. auto: labels become class names where each label goes with one "
            "folder; else they count from the smallest label of all lists.",
        ),
    ] = "auto",
    root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where a list's paths start; its own folder without it."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Take these classes only: one a line, or a shipped list: domainnet7."
        ),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(metavar="N", min=8, help="Shrink images whose longer side exceeds N pixels.")
    ] = None,
    max_rejects: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0, max=1, help="Stop when more inputs than this can't be used."),
    ] = 0.01,
    max_pixels: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Reject images of more pixels, by header, before decoding."),
    ] = 64_000_000,  # images.DEFAULT_MAX_PIXELS, said again because importing Pillow slows --help
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Before reading any image, hold the sources against what is published of pacs, office31, "
            "office_home, domainnet or domainnet7; on a difference, name it, write nothing, and exit with 1.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write counts for programs; - for standard output."),
    ] = None,
) -> None:
    """Read images into a catalog, in parallel; interrupted, the same command goes on where it stopped.

    A file that is no usable image does not stop the job, up to --max-rejects of all: it is listed with its reason in
    CATALOG/rejects.parquet, and duplicates by content in CATALOG/duplicates.parquet.

    Example: ucdr ingest data/pacs --out catalogs/pacs --expect pacs

    Example: ucdr ingest "Real World=lists/real.txt" Art=lists/art.txt --root data/office_home --out catalogs/rw_art
    """
    if label_base not in ("0", "1", "auto"):
        raise UserError(f"--label-base {label_base}: allowed are 0, 1 and auto")
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.cluster.ingest import ingest as run
    from ucdr_ray.commands.catalog import report, summary
    from ucdr_ray.expected import published, read_classes
    from ucdr_ray.ingest.plan import Selection
    from ucdr_ray.labels import labeller

    selection = Selection(
        labeller(labels),
        [name.strip() for name in domains.split(",")] if domains else None,
        read_classes(classes) if classes else None,
    )
    benchmark = published(expect) if expect else None

    def check(plan: "Plan") -> None:
        if plan.unlabelled == plan.items and labels not in ("none", "folder"):
            raise UserError(f"--labels {labels}: gives no image a label")
        if benchmark is not None:
            _expect(benchmark, plan, json_file)

    manifest = run(
        sources,
        out,
        selection,
        root,
        None if label_base == "auto" else int(label_base),
        max_side,
        max_pixels,
        max_rejects,
        check,
    )
    report(summary(Catalog(out, manifest)), json_file)


def _expect(benchmark: "Published", plan: "Plan", json_file: Path | None) -> None:
    """Print how the plan differs from the benchmark. Raises ``JobError`` if it does."""
    from rich.console import Console
    from rich.table import Table

    from ucdr_ray.expected import differences, recognise

    found = differences(benchmark, plan.counts)
    if not found:
        return
    table = Table("domain", "what", "published", "found", "note", title=f"Not {benchmark.title} as published")
    for difference in found:
        table.add_row(*asdict(difference).values())
    Console(stderr=True).print(table)
    content = {"expect": benchmark.title, "differences": [asdict(difference) for difference in found]}
    if str(json_file) == "-":
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    elif json_file is not None:
        write_json(json_file, content)
    other = recognise(plan.counts)
    hint = f"; they agree with --expect {other}" if other else ""
    raise JobError(f"the sources are not {benchmark.title} as published (above){hint}; nothing was written")
