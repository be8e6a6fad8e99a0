"""`ucdr demo`: the whole way on drawings, by the same commands that a user would type."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ucdr_ray.drawings import DUDE
from ucdr_ray.errors import JobError, UserError

_QUERIES = 5


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where everything goes.")] = Path("demo"),
    config: Annotated[Path, typer.Option(metavar="FILE", help="The recipe of the training.")] = DUDE,
    per_class: Annotated[int, typer.Option(metavar="N", min=2, help="Drawings per object and style.")] = 50,
) -> None:
    """Draw images, ingest, measure, train, embed, index, evaluate, search, report: a few minutes on two cores.

    Every step is printed as the command it is. An existing FOLDER of an earlier demo is continued.

    Example: ucdr demo --out /tmp/demo
    """
    from ucdr_ray.config import load_config
    from ucdr_ray.tracking import resolve_uri

    if out.exists() and any(out.iterdir()) and not (out / "drawings").is_dir():
        raise UserError(f"{out} exists and is no earlier demo; choose another --out")
    recipe = load_config(config)
    started = time.perf_counter()
    drawings, catalog, run = out / "drawings", out / "catalog", out / "run"
    embeddings, index = out / "embeddings", out / "index"
    size = recipe.data.stored_size or recipe.data.size
    if not _drawn(drawings, per_class, size):  # drawn anew, its files would be new inputs to the catalog
        _step("draw", "--out", drawings, "--per-class", per_class, "--size", size)
    _step("ingest", drawings, "--out", catalog)
    _step("evaluate", "--catalog", catalog, "--backbone", recipe.model.backbone, "--size", recipe.data.size,
          "--k", "1,10,50", "--json", out / "before.json")  # fmt: skip
    resume = ["--resume"] if (run / "run.json").exists() else []  # leaves alone what is finished
    _step("train", "--catalog", catalog, "--config", config, "--out", run, *resume)
    _step("embed", "--run", run, "--catalog", catalog, "--out", embeddings)
    _step("index", "build", embeddings, "--out", index)
    _step("evaluate", "--catalog", catalog, "--embeddings", embeddings, "--k", "1,10,50",
          "--json", out / "after.json")  # fmt: skip
    sketches = sorted((drawings / "sketch").glob("*/*.png"))
    queries = sketches[:: -(-len(sketches) // _QUERIES)]  # evenly, so of several objects
    _step("search", index, *queries, "--domains", "photo,painting", "-k", 5, "--sheet", out / "search.png")
    _step("report", run, "--catalog", catalog, "--embeddings", embeddings, "--out", out / "report.html")

    before, after = (_score(out / name) for name in ("before.json", "after.json"))
    typer.echo(
        f"\nmean capped_precision@10 over all pairs: {before:.1f} % before training, {after:.1f} % after "
        f"({after - before:+.1f} points), in {(time.perf_counter() - started) / 60:.1f} minutes"
    )
    typer.echo(f"report:  {(out / 'report.html').resolve()}")
    typer.echo(f"search:  {(out / 'search.png').resolve()}")
    typer.echo(f"service: {Path(sys.executable).with_name('ucdr')} serve {index.resolve()}")
    mlflow = Path(sys.executable).with_name("mlflow")
    typer.echo(f"MLflow:  {mlflow} ui --backend-store-uri {resolve_uri(recipe.tracking.uri, out)}")


def _drawn(folder: Path, per_class: int, size: int) -> bool:
    record = folder / "drawings.json"
    if not record.is_file():
        return False
    there = json.loads(record.read_text())
    return (there["per_class"], there["size"]) == (per_class, size)


def _step(*arguments: object) -> None:
    from ucdr_ray.cli import run as ucdr

    words = [str(argument) for argument in arguments]
    typer.secho(f"\n$ ucdr {shlex.join(words)}", bold=True, err=True)
    code = ucdr(words)
    if code == 130:
        raise typer.Exit(130)
    if code != 0:
        raise JobError(f"the demo stopped: `ucdr {words[0]}` ended with exit code {code}")


def _score(file: Path) -> float:
    return 100 * float(json.loads(file.read_text())["mean"]["capped_precision@10"])
