"""`ucdr generator`: text-to-image models of one's own."""

import json
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ucdr_ray.errors import UserError

app = typer.Typer(
    help="Train a text-to-image model for domains that no other one knows.", no_args_is_help=True
)


class DrawnSide(StrEnum):
    """Sides of pictures that the small model is made for."""

    LARGE, SMALL = "32", "16"


@app.command()
def train(
    catalog: Annotated[
        Path,
        typer.Argument(metavar="CATALOG", help="The images, of two or more domains; made by ucdr ingest."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="MODEL", help="The folder to write; its saved state lies beside it.")
    ],
    backbone: Annotated[
        str,
        typer.Option(
            metavar="BACKBONE",
            help="What sees the content: model.backbone of the training that is to follow.",
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(metavar="N", min=16, help="Side in pixels of what it sees; its own without this."),
    ] = None,
    draws: Annotated[
        DrawnSide,
        typer.Option(help="Side in pixels of what it draws; 16 takes a third of the time."),
    ] = DrawnSide.LARGE,
    style: Annotated[
        list[str] | None,
        typer.Option(
            "--style", metavar="DOMAIN=WORDS", help="A domain's style, if not its name; may be given again."
        ),
    ] = None,
    domains: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Domains of the catalog; all without it.")
    ] = None,
    steps: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Steps; about 1.3 s each on two cores, 0.5 s with --draws 16."),
    ] = 4000,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images of a step.")] = 64,
    lr: Annotated[float, typer.Option(min=1e-6, max=0.1, help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of weights and order.")] = 0,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write a summary for programs; - for standard output."),
    ] = None,
) -> None:
    """Train a small text-to-image model on a catalog's own images; labels are not used.

    It learns to draw "a STYLE of a \\[z]": the style is the domain's word, \\[z] what a fixed backbone sees in the
    image.
    Use it where Stable Diffusion does not know your domains: ucdr train --set method.name=dude --set
    method.generator=MODEL, with the same backbone and size. Interrupted, the same command goes on where it stopped.

    Example: ucdr generator train catalogs/emoji --backbone weights/mobilenet_v1 --size 64 --out models/emoji
    """
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.evaluation.features import chosen_domains
    from ucdr_ray.files import check_target, write_json
    from ucdr_ray.models.device import fastest_device
    from ucdr_ray.models.encoder import Encoder
    from ucdr_ray.own_generator import Settings, train_generator

    if out.exists():
        raise UserError(f"--out {out} exists; a model is never written over")
    check_target("--out", out)
    if json_file is not None and json_file != "-":
        check_target("--json", Path(json_file))
    opened = Catalog.open(catalog)
    names = chosen_domains(opened, [name.strip() for name in domains.split(",")] if domains else None)
    settings = Settings(_styles(style or [], names), steps, batch, lr, seed, int(draws.value))
    encoder = Encoder.from_backbone(backbone, size, seed).to(fastest_device())
    started = time.monotonic()
    loss, heeded = train_generator(opened, names, encoder, settings, out)
    seconds = round(time.monotonic() - started, 1)
    rows = [asdict(row) for row in heeded]
    summary = {"model": str(out), "loss": loss, "seconds": seconds, "heeded": rows}
    if json_file == "-":
        typer.echo(json.dumps(summary, indent=2))
        return
    if json_file is not None:
        write_json(Path(json_file), summary)
    ended = "" if loss is None else f", loss {loss:.4f}"
    typer.echo(f"{out}: trained in {seconds:,.0f} s{ended}")
    typer.echo("its loss rises, told another image's [z] / another style:")
    for row in heeded:
        where = f"{row.size} px, times from {row.time_low:g} to {row.time_high:g}"
        typer.echo(f"  {where}: {100 * row.content:.1f} % / {100 * row.style:.1f} %")


def _styles(given: list[str], names: list[str]) -> dict[str, str]:
    found = {name: name.replace("_", " ") for name in names}
    for text in given:
        name, equals, words = text.partition("=")
        if not equals or name not in found:
            raise UserError(f"--style {text}: write it as DOMAIN=WORDS; the domains are {', '.join(names)}")
        found[name] = words
    return found
