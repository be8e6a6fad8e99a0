"""`ucdr split`: a catalog whose domains don't have the same categories."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def split(
    catalog: Annotated[Path, typer.Argument(metavar="CATALOG", help="A catalog with labels.")],
    out: Annotated[Path, typer.Option(metavar="CATALOG", help="The catalog to write.")],
    setting: Annotated[
        Literal["close", "partial", "open"],
        typer.Option(
            help="close: all have the same labels. partial: the query domain has half of the galleries' labels. open: "
            "the galleries have half of the query domain's."
        ),
    ],
    query: Annotated[str, typer.Option(metavar="A", help="The domain that searches.")],
    gallery: Annotated[str, typer.Option(metavar="B,…", help="The domains that are searched.")],
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Which half.")] = 2024,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the split; - for standard output.")
    ] = None,
) -> None:
    """Write a catalog in which domains lack each other's categories, to train and evaluate any method on.

    The halves are drawn by the seed, among the labels that all these domains have; images without such a label stay
    out. CATALOG/split.json says who has what; `ucdr evaluate` reads it, training never does.

    Example: ucdr split catalogs/pacs --out catalogs/pacs-open --setting open --query sketch --gallery photo
    """
    from rich.console import Console

    from ucdr_ray.catalog import Catalog
    from ucdr_ray.commands.catalog import report, summary
    from ucdr_ray.evaluation.features import SPLIT, check_labelled
    from ucdr_ray.evaluation.protocols import draw
    from ucdr_ray.ingest.subset import write_subset
    from ucdr_ray.progress import progress

    opened = Catalog.open(catalog)
    galleries = [name.strip() for name in gallery.split(",")]
    names = [query, *galleries]
    check_labelled(opened, names)
    labels = {name: set(opened.read(name, ["label"])["label"].to_pylist()) for name in names}
    drawn = draw(labels, setting, query, galleries, seed)
    wanted = {name: set(some) for name, some in drawn.labels.items()}
    with progress("split", "images", sum(opened.domain(name).images for name in names)) as meter:
        manifest = write_subset(opened, out, wanted, drawn, SPLIT, meter.advance)
    found = summary(Catalog(out, manifest)) | {"split": drawn.model_dump() | {"private": drawn.private}}
    report(found, None if json_file is None else Path(json_file))
    if json_file != "-":
        private = f"; {query} alone: {', '.join(drawn.private)}" if drawn.private else ""
        Console().print(
            f"{setting}, seed {seed}: {query} searches {', '.join(galleries)}{private}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
