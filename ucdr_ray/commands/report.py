"""`ucdr report`: a run as one page to look at."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ucdr_ray.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ucdr_ray.catalog import Catalog
    from ucdr_ray.config import RunConfig
    from ucdr_ray.embeddings import Embeddings
    from ucdr_ray.evaluation.disentangle import Disentangled
    from ucdr_ray.evaluation.protocols import DomainVectors
    from ucdr_ray.evaluation.report import About
    from ucdr_ray.evaluation.words_map import Words
    from ucdr_ray.models.encoder import Encoder
    from ucdr_ray.run import Run


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run of `ucdr train`.")],
    catalog: Annotated[
        Path | None,
        typer.Option(metavar="CATALOG", help="The images and labels; without it, what the run trained on."),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="EMBEDDINGS", help="What `ucdr embed --run RUN` wrote, to spare embedding anew."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page; RUN/report.html without it.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the queries shown and of the maps.")] = 0,
    disentangle: Annotated[
        bool,
        typer.Option(
            help="Of runs with a generator, show what it draws of \\[z]: minutes on a GPU with Stable Diffusion, "
            "hours without one."
        ),
    ] = True,
) -> None:
    """Write one HTML page that shows what training changed; it needs no network and no other file.

    Tables before and after training, maps of the embedding, curves, what random queries find; where domains lack each
    other's labels, how well that is told; and, of runs with a generator, what it draws of the encoder's \\[z].

    Example: ucdr report runs/pacs --out pacs.html
    """
    from ucdr_ray.catalog import Catalog
    from ucdr_ray.config import load_config
    from ucdr_ray.embeddings import Embeddings
    from ucdr_ray.evaluation.features import chosen_domains, embed_domains, read_domain, split_of, untrained
    from ucdr_ray.evaluation.report import build_report
    from ucdr_ray.evaluation.report_examples import pictures_of
    from ucdr_ray.files import atomic_write, check_target
    from ucdr_ray.models.device import fastest_device
    from ucdr_ray.models.encoder import Encoder
    from ucdr_ray.run import Run

    target = out or run / "report.html"
    check_target("--out", target)
    opened = Run(run)
    values, epochs = opened.read(), opened.metrics()
    config = load_config(run / "config.yaml")
    encoder = Encoder.load(opened.encoder)
    shown = disentangle and opened.content.is_dir()
    if shown:
        from ucdr_ray.models.content import load_content

        load_content(opened.content)  # refused now if damaged, not after the embedding
    if catalog is None and not values["catalog"]:
        raise UserError(f"--catalog: missing; {run} was trained on words, so say on which images to try it")
    images = Catalog.open(catalog or Path(values["catalog"]))
    names = chosen_domains(images, config.data.domains)
    split = split_of(images, names)
    if embeddings is not None:
        made = Embeddings.open(embeddings)
        _check_maker(made, encoder, run)
        after = {name: read_domain(made, images, name) for name in names}
    else:
        after = embed_domains(encoder.to(fastest_device()), images, names)
    before = embed_domains(untrained(config).to(fastest_device()), images, names)
    disentangled = _disentangled(opened, config, encoder, images, before, after, seed) if shown else None
    page = build_report(
        _about(opened, images, names, encoder.name),
        epochs,
        before,
        after,
        pictures_of(images),
        seed,
        disentangled,
        None if split is None else split.pairs,
        _words(opened, config),
    )
    atomic_write(target, page.encode())
    typer.echo(f"report: {target}")


def _disentangled(
    run: "Run",
    config: "RunConfig",
    encoder: "Encoder",
    catalog: "Catalog",
    before: "Mapping[str, DomainVectors]",
    after: "Mapping[str, DomainVectors]",
    seed: int,
) -> "Disentangled":
    """Of a run with a generator."""
    from ucdr_ray.evaluation.content_page import content_page
    from ucdr_ray.evaluation.content_probes import content_probes
    from ucdr_ray.evaluation.disentangle import Disentangled, probed

    page = content_page(encoder, run.content, catalog, seed=seed)
    return Disentangled(
        page,
        (probed(before, seed), probed(after, seed)),
        content_probes(run, config, encoder, catalog, list(after), seed),
    )


def _words(run: "Run", config: "RunConfig") -> "Words | None":
    """Of a run that was trained on words."""
    if not run.words.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from ucdr_ray.evaluation.words_map import Words
    from ucdr_ray.method_settings import TkiConfig

    try:
        prompts = load_file(run.words)["prompts"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"damaged run: {run.words}: {error}") from None
    method = config.method
    if not isinstance(method, TkiConfig) or prompts.shape[:2] != (method.domains, len(method.words)):
        raise UserError(f"damaged run: {run.words} is not of the words in its config.yaml")
    return Words(prompts, method.words)


def _check_maker(embeddings: "Embeddings", encoder: "Encoder", run: Path) -> None:
    if embeddings.model.fingerprint != encoder.fingerprint:
        raise UserError(f"--embeddings {embeddings.path}: made by another encoder than that of {run}")


def _about(run: "Run", catalog: "Catalog", names: list[str], encoder: str) -> "About":
    from ucdr_ray.evaluation.report import About
    from ucdr_ray.progress import duration
    from ucdr_ray.run import rate

    values, epochs = run.read(), run.metrics()
    manifest = catalog.manifest
    trained_on_it = values["catalog_fingerprint"] == catalog.fingerprint
    facts = {"run": f"{run.path}, {values['status']}"}
    if epochs:
        seconds = sum(float(row["seconds"]) for row in epochs)
        facts["training"] = f"{len(epochs)} epochs in {duration(seconds)}, {rate(epochs)}"
    facts |= {
        "encoder": encoder,
        "config fingerprint": values["config_fingerprint"][:12],
        "catalog": f"{catalog.path} ({catalog.fingerprint[:12]}{'' if trained_on_it else ', not trained on it'}), "
        f"{manifest.duplicates:,} duplicates, {manifest.rejects:,} rejects",
        "MLflow run": str(values.get("mlflow_run_id") or "not tracked"),
        "report made on": _machine(),
        "with": ", ".join(f"{name} {version(name)}" for name in ("ucdr-ray", "torch", "transformers", "ray")),
    }
    counts = [catalog.domain(name) for name in names]
    return About(
        title=values["name"],
        facts=facts,
        domains=[(domain.name, domain.images, domain.labelled, domain.classes) for domain in counts],
        config=(run.path / "config.yaml").read_text(encoding="utf-8"),
    )


def _machine() -> str:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    python = f"Python {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {gpu}, {python}"
