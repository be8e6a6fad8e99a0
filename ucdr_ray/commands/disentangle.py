"""`ucdr disentangle`: what [z] says of an image, and what it does not."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ucdr_ray.commands.tracked import log_disentanglement, tracked_run
from ucdr_ray.errors import UserError

if TYPE_CHECKING:
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.evaluation.disentangle import Disentangled
    from ucdr_ray.run import Run


def disentangle(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run with method.name=dude.")],
    catalog: Annotated[
        Path | None,
        typer.Option(metavar="CATALOG", help="The images and labels; without it, what the run trained on."),
    ] = None,
    images: Annotated[
        int, typer.Option(metavar="N", min=1, max=50, help="Images of each domain to show.")
    ] = 3,
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="The page.")] = Path("disentangle.png"),
    guidance: Annotated[
        float, typer.Option(min=1, max=100, help="How much more than nothing the words count.")
    ] = 3.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the images and the noise.")] = 0,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write the probes for programs; - for standard output."),
    ] = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Add probes and page to the run in MLflow.")
    ] = False,
) -> None:
    """Draw what the encoder says of images under every style, and probe what can be read off its vectors.

    On the page stands an image, and then what the generator draws when told "a STYLE of a \\[z]", \\[z] being what the
    encoder made of the image: if it says the object and not the style, each column has its style and each row its
    object. The probes are linear: how well they find the domain (lower is better) and the object, where images have
    labels (higher is better), in the embedding and in \\[z], before and after training.

    Example: ucdr disentangle runs/drawings --out page.png
    """
    from ucdr_ray.files import atomic_write, check_target, write_json

    check_target("--out", out, (".png",))
    if json_file is not None and json_file != "-":
        check_target("--json", Path(json_file))
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.run import Run

    tracked = tracked_run(run) if mlflow else None
    opened = Run(run)
    values = opened.read()
    if not opened.content.is_dir():
        raise UserError(f"{run} has no [z]: it is no finished run with method.name=dude")
    found = Catalog.open(catalog or Path(values["catalog"]))
    seen = _seen(opened, found, images, guidance, seed)
    atomic_write(out, seen.page)
    figures = seen.figures()
    if tracked is not None:
        log_disentanglement(figures, out, *tracked, run)
    result = {"run": str(run), "page": str(out), **figures}
    if json_file == "-":
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    if json_file is not None:
        write_json(Path(json_file), result)
    for what, better in (("domain", "lower"), ("object", "higher")):
        for of, name in (("embedding", "the embedding"), ("content", "[z]")):
            before, after = (figures[of][when][what] for when in ("before", "after"))
            if before is not None and after is not None:
                typer.echo(
                    f"{what} by a linear probe of {name}: {before:.1%} before, {after:.1%} after ({better} is better)"
                )
    typer.echo(f"page: {out}")


def _seen(run: "Run", catalog: "Catalog", images: int, guidance: float, seed: int) -> "Disentangled":
    from ucdr_ray.config import load_config
    from ucdr_ray.evaluation.content_page import content_page
    from ucdr_ray.evaluation.content_probes import content_probes, probed_on
    from ucdr_ray.evaluation.disentangle import Disentangled
    from ucdr_ray.evaluation.features import chosen_domains, untrained
    from ucdr_ray.models.encoder import Encoder

    config = load_config(run.path / "config.yaml")
    names = chosen_domains(catalog, config.data.domains)
    start, encoder = untrained(config), Encoder.load(run.encoder)
    return Disentangled(
        content_page(encoder, run.content, catalog, images, guidance, seed),
        (probed_on(start, catalog, names, seed), probed_on(encoder, catalog, names, seed)),
        content_probes(run, config, encoder, catalog, names, seed),
    )
