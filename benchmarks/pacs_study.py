"""What limits staged alignment on PACS: the recipe, half as long, at 96 and 64 px, one setting changed at a time.

Two variants train at a time, each in a process of its own. What is done under --work is kept: the same command goes on.

    python benchmarks/pacs_study.py --data pacs.zip --weights weights --picture study.png
"""

from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from pacs import CONFIG
from rich.console import Console
from rich.table import Table
from staged import call, judge, unpack
from study import Variant, trained

from ucdr_ray.catalog import Catalog
from ucdr_ray.evaluation.features import embed_domains
from ucdr_ray.evaluation.protocols import evaluate_pairs
from ucdr_ray.files import write_json
from ucdr_ray.models.encoder import Encoder

BACKBONE = "mobilenet_v1_025_imagenet"
BASE = {"method.stages.in_domain": 2, "method.stages.cross_domain": 2}  # five epochs: half the recipe's
SETTINGS: dict[str, dict[str, object]] = {
    "k = 20": {"method.k_in": 20, "method.k_cross": 20},
    "k = 50": {"method.k_in": 50, "method.k_cross": 50},
    "k = 100": {"method.k_in": 100, "method.k_cross": 100},
    "k = 400": {"method.k_in": 400, "method.k_cross": 400},
    "all neighbours, not mutual": {"method.mutual": False},
    "temperature 0.1": {"method.temperature": 0.1},
    "temperature 0.2": {"method.temperature": 0.2},
    "temperature 0.5": {"method.temperature": 0.5},
    "L_aug at full weight": {"method.weight_aug": 1},
    "next to no L_aug, in all stages": {"method.weight_aug": 1e-6},
    "embedding: the backbone's": {"model.embedding": "backbone"},
    "instance stage only": {
        "method.stages.instance": 5,
        "method.stages.in_domain": 0,
        "method.stages.cross_domain": 0,
    },
    "no cross-domain stage": {"method.stages.in_domain": 4, "method.stages.cross_domain": 0},
    "no in-domain stage": {
        "method.stages.in_domain": 0,
        "method.stages.cross_domain": 4,
        "method.weight_in": 0,
    },
}
AT_96 = (
    "k = 20",
    "temperature 0.1",
    "L_aug at full weight",
    "embedding: the backbone's",
    "instance stage only",
    "no cross-domain stage",
    "no in-domain stage",
)
V2: dict[str, object] = {"model.backbone": "mobilenet_v2_imagenet"}
VARIANTS: dict[str, dict[str, object]] = {
    "the recipe": {},
    "MobileNetV2": V2,
    **{name: SETTINGS[name] for name in AT_96},
    "64 px": {"data.size": 64},
    "64 px, MobileNetV2": {"data.size": 64, **V2},
    **{f"64 px, {name}": {"data.size": 64, **changed} for name, changed in SETTINGS.items()},
}


def draw(rows: dict[str, dict[str, float]], file: Path) -> None:
    """Bars: map@all of each variant; ticks: zero-training and centring with its backbone and size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.32 * len(rows) + 1.2), layout="constrained")
    names = list(rows)
    values = [100 * row["alignment"] for row in rows.values()]
    colours = ["#30638e" if name in ("the recipe", "64 px") else "#9db4c8" for name in names]
    axes.barh(names, values, color=colours)
    for index, (row, value) in enumerate(zip(rows.values(), values, strict=True)):
        for key, colour in (("zero", "#d1495b"), ("centred", "#edae49")):
            label = f"{key}, same backbone and size" if index == 0 else None
            axes.plot([100 * row[key]] * 2, [index - 0.4, index + 0.4], color=colour, lw=2, label=label)
        axes.text(value + 0.1, index, f"{value:.1f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=15)
    axes.set_xlabel("map@all, mean over the twelve ordered pairs, % (axis from 15)")
    axes.set_title("PACS, five epochs at 96 px: one setting changed at a time")
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def main(
    data: Annotated[Path, typer.Option(help="pacs.zip, or the folder of domains inside it.")],
    weights: Annotated[Path, typer.Option(help="Folder of the backbones, each in transformers format.")],
    work: Annotated[Path, typer.Option(help="Where catalog and runs go; what is there is reused.")] = Path(
        "runs/pacs_study"
    ),
    only: Annotated[list[str] | None, typer.Option(help="A variant by name; may be given again.")] = None,
    quick: Annotated[
        bool, typer.Option(help="The recipe and one variant, an epoch a stage: a smoke figure.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of every run.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Draw the figures to this PNG.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Variant -> numbers.")] = None,
) -> None:
    names = only or list(VARIANTS)
    if unknown := set(names) - set(VARIANTS):
        raise SystemExit(f"--only {', '.join(unknown)}: allowed are {', '.join(VARIANTS)}")
    shared: dict[str, object] = {"train.seed": seed}
    if quick:
        names = names[:2]
        shared |= {f"method.stages.{stage}": 1 for stage in ("instance", "in_domain", "cross_domain")}
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "catalog" / "manifest.json").exists():
        call("ingest", unpack(data, work), "--expect", "pacs", "--out", work / "catalog")
    catalog = Catalog.open(work / "catalog")
    domains = [domain.name for domain in catalog.domains]

    def changed(name: str) -> dict[str, object]:
        fields = {"model.backbone": BACKBONE, **BASE, **VARIANTS[name], **shared}
        return fields | {"model.backbone": f"{weights}/{fields['model.backbone']}"}

    variants = [Variant.make(name, CONFIG, changed(name), work) for name in names]

    @cache
    def untrained(backbone: str, size: int) -> dict[str, float]:
        vectors = embed_domains(Encoder.from_backbone(backbone, size), catalog, domains)
        means = {
            name: evaluate_pairs(vectors, centred=name == "centred")["mean"] for name in ("zero", "centred")
        }
        return {name: mean["map@all"] for name, mean in means.items()}

    def figures(variant: Variant) -> dict[str, float]:
        mean = judge(Encoder.load(variant.run / "encoder"), catalog, domains)["mean"]
        after = {"alignment": mean["map@all"], "precision@1": mean["precision@1"]}
        return after | untrained(variant.config.model.backbone, variant.config.data.size)

    console = Console(width=110)
    rows: dict[str, dict[str, float]] = {}
    for variant in trained(variants, catalog.path):
        rows[variant.name] = figures(variant)
        console.print(f"{len(rows)}/{len(names)} {variant.name}: {100 * rows[variant.name]['alignment']:.2f}")

    table = Table(
        "variant", "map@all %", "gain on zero", "gain on centring", "precision@1 %", title="PACS, study"
    )
    for name, found in rows.items():
        gains = [100 * (found["alignment"] - found[key]) for key in ("zero", "centred")]
        table.add_row(
            name,
            f"{100 * found['alignment']:.2f}",
            *(f"{gain:+.2f}" for gain in gains),
            f"{100 * found['precision@1']:.2f}",
        )
    console.print(table)
    if picture is not None:
        draw(rows, picture)
    if json_file is not None:
        write_json(json_file, rows)


if __name__ == "__main__":
    typer.run(main)
