"""`ucdr train`: from a catalog to an encoder, without labels."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ucdr_ray.errors import UserError


def train(
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="The run's folder, on storage that all workers share.")
    ],
    catalog: Annotated[
        Path | None,
        typer.Option(metavar="CATALOG", help="The images; labels are not read. None with method tki."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="alignment, dude, uem or tki: the same as --set method.name=NAME."),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With method tki: what images show, one class on each line."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The recipe (`ucdr config show`); defaults without it."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="A.B=C", help="Change one field of the recipe; may be given several times."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run; a finished one is left as it is.")
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the outcome; - for standard output.")
    ] = None,
) -> None:
    """Train an encoder by the config's method: alignment, dude, uem or tki.

    Says after each epoch its stage, losses, images a second, where neighbours are searched the share of images with
    mutual ones in other domains, and the time left. RUN gets metrics.jsonl, checkpoints and, at the end, the encoder.
    Workers that die are replaced. After Ctrl-C, or whatever else stops it, the same command with --resume goes on from
    the newest checkpoint.

    Example: ucdr train --catalog catalogs/pacs --config jobs/configs/pacs_alignment.yaml --out runs/pacs

    Example: ucdr train --catalog catalogs/pacs --out runs/k20 --set method.k_cross=20 --set train.workers=2

    Example: ucdr train --method tki --words words.txt --set model.backbone=weights/clip --out runs/tki
    """
    from ucdr_ray.config import load_config
    from ucdr_ray.files import write_json
    from ucdr_ray.progress import duration

    overrides = [*([] if method is None else [f"method.name={method}"]), *(override or [])]
    if words is not None:
        from ucdr_ray.commands.words_training import read_words

        overrides.append(f"method.words={json.dumps(read_words(words), ensure_ascii=False)}")
    settings = load_config(config, overrides)
    if settings.method.name == "tki":
        if catalog is not None:
            raise UserError(f"--catalog {catalog}: method tki reads no images; allowed: --words FILE alone")
        from ucdr_ray.commands.words_training import train_on_words

        result = train_on_words(settings, out, resume)
    else:
        if catalog is None:
            raise UserError(f"--catalog: missing; method {settings.method.name} trains on images")
        from ucdr_ray.catalog import Catalog
        from ucdr_ray.cluster.training import train as job

        result = job(settings, Catalog.open(catalog), out, resume)
    if json_file == "-":
        typer.echo(json.dumps(result, indent=2))
        return
    if json_file is not None:
        write_json(Path(json_file), result)
    took = duration(result["seconds"])
    typer.echo(f"trained {result['metrics']['epoch']} epochs in {took}; encoder: {result['encoder']}")
