"""TKI against vanilla CLIP: a projection learnt from words alone, tried on images of domains that CLIP may not know.

    python benchmarks/tki.py                                    # the package's drawings and its CLIP
    python benchmarks/tki.py --clip weights/clip-vit-base-patch32 --data pacs.zip --expect pacs --size 224

Tables 2 to 7 of the paper in small: the losses of the expansion (Table 5), other words than the images' classes
(Table 6), an ordinary layer in the place of the hyperbolic one (Table 7), P (Fig. 5). Every domain searches every
other one. Images are embedded once; each training is of text, and takes seconds with a small CLIP. Nothing of the
images is used but by the figures.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from staged import call, unpack

from ucdr_ray.catalog import Catalog
from ucdr_ray.evaluation.features import embed_domains
from ucdr_ray.evaluation.protocols import DomainVectors, evaluate_pairs
from ucdr_ray.files import write_json
from ucdr_ray.method_settings import TkiConfig
from ucdr_ray.methods.tki import Prompts, aggregate, expand, features
from ucdr_ray.models.clip import ClipText
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.hyperbolic import Projection

SHOWN = ("map@all", "precision@200")
# Words of things that none of these images show (Table 6, strategy 2).
OTHER_WORDS = (
    *(
        "anchor",
        "apple",
        "banana",
        "bear",
        "bridge",
        "candle",
        "castle",
        "clock",
        "cow",
        "crown",
        "drum",
        "fence",
    ),
    *(
        "hammer",
        "key",
        "ladder",
        "moon",
        "pizza",
        "rabbit",
        "shoe",
        "snowman",
        "spider",
        "spoon",
        "table",
        "train",
    ),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "TKI": {},
    "L_max alone": {"weight_min": 0},
    "L_min alone": {"weight_max": 0},
    "words untrained": {"stages": {"expansion": 0}},
    "an ordinary layer": {"radius": None},
    "other words": {"words": list(OTHER_WORDS)},
    **{f"P = {count}": {"domains": count} for count in (1, 5, 10, 40)},
}
KEYS = {"TKI": "tki", "an ordinary layer": "euclidean"}


@dataclass(frozen=True)
class Figures:
    """Means over all pairs, of one training or none."""

    mean: dict[str, float]
    by_pair: dict[str, float]  # map@all

    @classmethod
    def of(cls, domains: Mapping[str, DomainVectors], centred: bool = False) -> "Figures":
        found = evaluate_pairs(domains, (200,), centred=centred)
        pairs = {pair: values["map@all"] for pair, values in found["pairs"].items()}
        return cls({name: found["mean"][name] for name in SHOWN}, pairs)


def trained(text: ClipText, config: TkiConfig, seed: int) -> Projection:
    """h, from words alone."""
    prompts = Prompts.of(text, config.words)
    vectors = expand(text, prompts, config, seed, lambda *_: None)
    return aggregate(features(text, prompts, vectors, config.batch), config, seed, lambda *_: None)


def through(h: Projection, domains: Mapping[str, DomainVectors]) -> dict[str, DomainVectors]:
    """The same images, h applied to their features."""
    with torch.no_grad():
        return {
            name: replace(domain, vectors=h(torch.from_numpy(domain.vectors)).numpy())
            for name, domain in domains.items()
        }


def main(
    clip: Annotated[
        str, typer.Option(help="A CLIP in the format of transformers, or package:clip.")
    ] = "package:clip",
    data: Annotated[
        Path | None, typer.Option(help="ZIP file or folder of domains; the package's drawings without it.")
    ] = None,
    expect: Annotated[
        str | None, typer.Option(help="As of `ucdr ingest`: refuse images that are not these.")
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="A class word on each line; the names of the classes without it.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels; CLIP's own without it.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Where images and catalog go; what is there is reused.")] = Path(
        "runs/tki"
    ),
    seeds: Annotated[str, typer.Option(help="Of the training, comma-separated.")] = "0,1,2",
    quick: Annotated[bool, typer.Option(help="One seed and few drawings: a smoke figure.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    catalog = _catalog(data, expect, work / ("quick" if quick else "whole"), 5 if quick else 60)
    encoder, text = Encoder.from_backbone(clip, size), ClipText.load(clip)
    domains = embed_domains(encoder, catalog, [domain.name for domain in catalog.domains])
    names = [name.replace("_", " ").replace("-", " ") for name in catalog.manifest.classes]
    if words is not None:
        names = [line.strip() for line in words.read_text(encoding="utf-8").splitlines() if line.strip()]
    base = TkiConfig.model_validate({"words": names})
    rows: dict[str, list[Figures]] = {
        "vanilla CLIP": [Figures.of(domains)],
        "vanilla CLIP, centred": [Figures.of(domains, centred=True)],
    }
    for name, changed in VARIANTS.items():
        config = TkiConfig.model_validate(base.model_dump() | changed)
        for seed in [0] if quick else [int(seed) for seed in seeds.split(",")]:
            rows.setdefault(name, []).append(Figures.of(through(trained(text, config, seed), domains)))
    _show(rows)
    if json_file is not None:
        keys = {"clip.map@all": rows["vanilla CLIP"][0].mean["map@all"]}
        for name, key in KEYS.items():
            keys[f"{key}.map@all"] = statistics.fmean(one.mean["map@all"] for one in rows[name])
        write_json(json_file, keys)


def _catalog(data: Path | None, expect: str | None, work: Path, per_class: int) -> Catalog:
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "catalog" / "manifest.json").exists():
        images = work / "drawings" if data is None else unpack(data, work)
        if data is None:
            call("draw", "--out", images, "--per-class", per_class)
        call("ingest", images, "--out", work / "catalog", *(["--expect", expect] if expect else []))
    return Catalog.open(work / "catalog")


def _show(rows: Mapping[str, list[Figures]]) -> None:
    table = Table(
        "", title="mean over all pairs, %, and the best and worst pair's gain in map@all over vanilla CLIP"
    )
    for name in (*SHOWN, "best", "worst"):
        table.add_column(name, justify="right")
    [vanilla] = rows["vanilla CLIP"]
    for name, some in rows.items():
        cells = [_spread([one.mean[shown] for one in some]) for shown in SHOWN]
        gains = {
            pair: 100 * (statistics.fmean(one.by_pair[pair] for one in some) - before)
            for pair, before in vanilla.by_pair.items()
        }
        order = sorted(gains, key=lambda pair: -gains[pair])
        ends = [f"{gains[pair]:+.1f} {pair}" for pair in (order[0], order[-1])]
        table.add_row(name, *cells, *(ends if name != "vanilla CLIP" else ["", ""]))
    Console(width=150).print(table)


def _spread(values: list[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


if __name__ == "__main__":
    typer.run(main)
