"""`ucdr evaluate`: how well domains find each other."""

import json
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ucdr_ray.commands.tracked import log_evaluation, tracked_run
from ucdr_ray.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from ucdr_ray.catalog import Catalog
    from ucdr_ray.evaluation.protocols import DomainVectors


def evaluate(
    catalog: Annotated[Path, typer.Option(metavar="CATALOG", help="The images and their labels.")],
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Evaluate the encoder that this run trained.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Evaluate a backbone without training: the baseline.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="N", min=16, help="With --backbone: side in pixels.")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(metavar="EMBEDDINGS", help="Evaluate vectors that `ucdr embed` has written."),
    ] = None,
    centred: Annotated[
        bool, typer.Option("--centred", help="Subtract each domain's mean vector first.")
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null", help="Also: is it told that a gallery lacks what a query shows? By two detectors."
        ),
    ] = False,
    k: Annotated[str, typer.Option(metavar="K,…", help="Cut-offs.")] = "1,5,10,50,100,200",
    domains: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these domains; all without it.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all metrics; - for standard output.")
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="With --run: add the metrics to the run in MLflow.")
    ] = False,
) -> None:
    """Let every domain search every other one, and measure what it finds.

    All images of a domain are queries and gallery; the labels of the catalog say what is right. Prints mean average
    precision and precision (plain: of k; capped: of what there is to find) per pair, query->gallery, in percent. In a
    catalog of `ucdr split`, the query domain alone searches.

    Example: ucdr evaluate --catalog catalogs/pacs --run runs/pacs --json pacs.json

    Example: ucdr evaluate --catalog catalogs/pacs --backbone weights/mobilenet_v2 --size 96 --centred
    """
    if sum(source is not None for source in (run, backbone, embeddings)) != 1:
        raise UserError(
            "say what to evaluate: exactly one of --run RUN, --backbone FOLDER and --embeddings EMBEDDINGS"
        )
    if size is not None and backbone is None:
        raise UserError("--size goes with --backbone; a run and embeddings have their own")
    if mlflow and run is None:
        raise UserError("--mlflow goes with --run, whose MLflow run gets the metrics")
    cutoffs = parse_cutoffs(k)
    tracked = tracked_run(run) if mlflow and run is not None else None

    from ucdr_ray.catalog import Catalog
    from ucdr_ray.evaluation.features import check_labelled, chosen_domains, split_of
    from ucdr_ray.evaluation.protocols import centre, evaluate_pairs, unit
    from ucdr_ray.files import write_json
    from ucdr_ray.progress import progress

    opened = Catalog.open(catalog)
    names = chosen_domains(opened, [name.strip() for name in domains.split(",")] if domains else None)
    check_labelled(opened, names)
    split = split_of(opened, names)
    pairs = split.pairs if split is not None else list(permutations(names, 2))
    if embeddings is not None:
        vectors, model = _from_embeddings(opened, names, embeddings)
    else:
        vectors, model = _from_encoder(opened, names, run, backbone, size)
    with progress("evaluate", "pairs", len(pairs)) as meter:
        result = evaluate_pairs(vectors, cutoffs, centred, lambda _: meter.advance(1), pairs)
    if null:
        from ucdr_ray.evaluation.open_set import evaluate_open_set

        result["open_set"] = evaluate_open_set(
            {name: centre(one) if centred else unit(one) for name, one in vectors.items()}, pairs=pairs
        )
    if split is not None:
        result["split"] = split.model_dump() | {"private": split.private}
    result |= {"model": model, "catalog": {"path": str(catalog), "fingerprint": opened.fingerprint}}
    if json_file is not None and json_file != "-":
        write_json(Path(json_file), result)
    if json_file == "-":
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print(result, cutoffs)
    if tracked is not None and run is not None:
        log_evaluation(result, *tracked, run)


def parse_cutoffs(text: str) -> list[int]:
    """``1,10`` as sorted numbers.

    Raises:
        UserError: one is no whole number from 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--k {text}: allowed are whole numbers from 1, such as 1,10,50")
    return sorted({int(part) for part in parts})


def _from_embeddings(
    catalog: "Catalog", names: list[str], folder: Path
) -> tuple[dict[str, "DomainVectors"], dict[str, Any]]:
    from ucdr_ray.embeddings import Embeddings
    from ucdr_ray.evaluation.features import read_domain

    opened = Embeddings.open(folder)
    return {name: read_domain(opened, catalog, name) for name in names}, opened.model.model_dump()


def _from_encoder(
    catalog: "Catalog", names: list[str], run: Path | None, backbone: str | None, size: int | None
) -> tuple[dict[str, "DomainVectors"], dict[str, Any]]:
    from ucdr_ray.evaluation.features import embed_domains
    from ucdr_ray.models.device import fastest_device
    from ucdr_ray.models.encoder import Encoder

    encoder = Encoder.load(run / "encoder") if run is not None else Encoder.from_backbone(str(backbone), size)
    model = {"name": encoder.name, "fingerprint": encoder.fingerprint, "size": encoder.size}
    return embed_domains(encoder.to(fastest_device()), catalog, names), model


def _print(result: dict[str, Any], cutoffs: list[int]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from ucdr_ray.evaluation.report_tables import query_note

    # The JSON has them all.
    main = cutoffs if len(cutoffs) <= 3 else [k for k in cutoffs if k in (1, 50, 200)] or cutoffs[:3]
    columns = {"map@all": "map@all"}
    for k in main:
        columns |= {f"P@{k}": f"precision@{k}"}
        columns |= {f"cP@{k}": f"capped_precision@{k}"} if k > 1 else {}  # at 1 they are the same
    split = "{setting}, seed {seed}, ".format(**result["split"]) if "split" in result else ""
    title = f"{split}{result['model']['name']}{', centred' if result['centred'] else ''}, %"
    caption = "P: precision, of k; cP: capped precision, of min(k, R), R = what there is to find"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("query → gallery", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for pair, values in result["pairs"].items():
        table.add_row(pair.replace("->", " → "), *(percent(values[name]) for name in columns.values()))
    table.add_section()
    table.add_row("mean", *(percent(result["mean"][name]) for name in columns.values()), style="bold")
    console = Console()
    console.print(table)
    console.print(query_note(result), highlight=False)
    if "open_set" in result:
        console.print(_open_set(result["open_set"]))


def _open_set(found: dict[str, Any]) -> "Table":
    """How well it is told that a gallery lacks what a query shows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title="nothing here matches: right answers, %",
        caption="to queries whose label the gallery lacks, has, and all; by prototypes in common (UEM, B.1) and by "
        "distances inside the query's cluster (B.2)",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("query → gallery", no_wrap=True)
    for heading in ("lacks", "has", "all", "B.2", "has", "all", "merged"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair, values in found.items():
        shares = [
            "–" if (share := values[one][kind]) is None else f"{100 * share:.1f}"
            for one in ("prototypes", "distances")
            for kind in ("private", "shared", "all")
        ]
        table.add_row(pair.replace("->", " → "), *shares, "{}/{}".format(*values["merged"]))
    return table


def percent(value: float | None) -> str:
    """A fraction as a percentage with two decimals; a dash where it is undefined."""
    return "–" if value is None else f"{100 * value:.2f}"
