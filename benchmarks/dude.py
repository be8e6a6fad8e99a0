"""DUDE on the package's drawings: the whole method, its ablations, its price, and what makes it cheaper.

Every variant trains on the same drawings with the same encoder, batches and number of epochs; labels judge the finished
encoders only. Two variants train at a time, each on one core; what is done under --work is kept: the same command goes
on.

step_vs_parts: seconds of a step of L_OD over those of its parts that nobody can spare. cost_vs_contrastive: seconds of
a step with L_OD over those of the same step without it.

    python benchmarks/dude.py --picture dude_cost.png --json dude.json
"""

import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from dude_cost import Cost, batch_of, cost, matrix_rate, method_of, ratio, show
from generator import judged
from rich.console import Console
from rich.table import Table
from staged import call, judge
from study import Variant, percent, trained

from ucdr_ray.bfloat16 import fast_bfloat16
from ucdr_ray.catalog import Catalog
from ucdr_ray.config import load_config
from ucdr_ray.drawings import ALIGNMENT, DUDE
from ucdr_ray.drawings.train_generator import SYNONYMS
from ucdr_ray.engine import build_encoder
from ucdr_ray.evaluation.disentangle import probed
from ucdr_ray.evaluation.features import embed_domains
from ucdr_ray.files import write_json
from ucdr_ray.method_settings import DudeConfig
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_files import PACKAGED, load_generator
from ucdr_ray.run import Run

FULL, ALONE = "DUDE", "staged alignment alone"


def variants() -> dict[str, dict[str, object]]:
    """What each changes in the recipe; all have its epochs."""
    method = load_config(DUDE).method
    assert isinstance(method, DudeConfig)
    stages = method.stages
    before = stages.warm_up + stages.in_domain
    return {
        ALONE: {"stages.instance": before, "stages.cross_domain": stages.cross_domain},
        FULL: {},
        "no L_OD": {"weight_od": 0, "stages.warm_up": 0, "stages.in_domain": before},
        "no stages": {
            "stages.warm_up": 0,
            "stages.in_domain": 0,
            "stages.cross_domain": before + stages.cross_domain,
        },
        'one style, "photo"': {"fixed_style": "photo"},
        "all neighbours, not mutual": {"mutual": False},
        "k = 5": {"k_cross": 5},
        "k = 20": {"k_cross": 20},
        "other words for the styles": {"styles": SYNONYMS},
        "style words tuned": {"style_tokens": "tuned"},
        "style words from nothing": {"style_tokens": "free"},
    }


CHEAPER: dict[str, dict[str, object]] = {
    "16 px": {"generator_size": 16},
    "all times": {"time_low": 0},
    "the cleaner half of times": {"time_low": 0, "time_high": 0.5},
    "the noisier half of times": {"time_low": 0.5},
    "L_OD until warm-up ends": {"keep_od": False},
    "L_OD at every step": {"od_every": 1},
    "L_OD every 4th step": {"od_every": 4},
    "L_OD every 64th step": {"od_every": 64},
}


def figures(variant: Variant, catalog: Catalog, names: list[str]) -> dict[str, float]:
    """Of a finished run: retrieval, what probes read off its embedding, and the seconds of its epochs."""
    encoder = Encoder.load(variant.run / "encoder")
    mean = judge(encoder, catalog, names)["mean"]
    after = vars(probed(embed_domains(encoder, catalog, names)))
    seconds = sum(row["seconds"] for row in Run(variant.run).metrics())
    return {"map@all": mean["map@all"], "precision@1": mean["precision@1"], "seconds": seconds} | after


def precision() -> torch.dtype:
    """The generator's on a CPU, as training chooses it."""
    return torch.bfloat16 if fast_bfloat16(torch.device("cpu")) else torch.float32


def measured(rounds: int) -> tuple[Cost, float]:
    """A step of the recipe's: what L_OD costs in it, and its ratio to the same step without it."""
    config, device = load_config(DUDE), torch.device("cpu")
    generator = load_generator(PACKAGED, precision())
    names = list(SYNONYMS)
    method = method_of(config, names, generator, device)
    side = int(generator.unet.config.sample_size)
    batch = batch_of(
        config, config.train.batch * len(names), len(names), (generator.codec.channels, side, side), device
    )
    return cost(method, batch, rounds), ratio(method, batch, 800, rounds)


def draw(rows: dict[str, list[dict[str, float]]], file: Path) -> None:
    """What each way to pay less costs and finds: training time over that of staged alignment, map@all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    unit = statistics.fmean(row["seconds"] for row in rows[ALONE])
    for name, found in rows.items():
        x = statistics.fmean(row["seconds"] for row in found) / unit
        values = [100 * row["map@all"] for row in found]
        y, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0
        colour = {FULL: "#d1495b", ALONE: "#5b6470"}.get(name, "#30638e")
        axes.errorbar(x, y, spread, fmt="o", color=colour, capsize=3)
        axes.annotate(name, (x, y), (7, 4), textcoords="offset points", fontsize=9)
    axes.set_xlabel("time of training, as a multiple of staged alignment alone")
    axes.set_ylabel("map@all, mean over the twelve ordered pairs, %")
    axes.set_title("What L_OD costs, and what it gives (drawings; mean and standard deviation over seeds)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.2)
    figure.savefig(file, dpi=110)


def main(
    work: Annotated[Path, typer.Option(help="Where drawings and runs go; what is there is reused.")] = Path(
        "runs/dude"
    ),
    only: Annotated[list[str] | None, typer.Option(help="A variant by name; may be given again.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0,1,2",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="DUDE and alignment for an epoch a stage, one seed: a smoke figure."),
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw time and map@all to this PNG.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    changes = variants() | CHEAPER
    names = only or list(changes)
    if unknown := set(names) - set(changes):
        raise SystemExit(f"--only {', '.join(unknown)}: allowed are {', '.join(changes)}")
    if picture is not None and not quick and ALONE not in names:
        raise SystemExit(f"--picture shows times over that of {ALONE!r}; add --only {ALONE!r}")
    numbers = [0] if quick else [int(seed) for seed in seeds.split(",")]
    work = work / "quick" if quick else work
    names = [ALONE, FULL] if quick else names
    if not (work / "catalog" / "manifest.json").exists():
        call("draw", "--out", work / "drawings", "--per-class", 10 if quick else 50, "--size", 64)
        call("ingest", work / "drawings", "--out", work / "catalog")
    catalog = Catalog.open(work / "catalog")
    domains = [domain.name for domain in catalog.domains]
    console = Console(width=120)

    whole, against = measured(3 if quick else 15)
    title = f"A step of L_OD, {whole.rows} images, {torch.get_num_threads()} threads"
    show(console, title, whole, matrix_rate(precision(), torch.device("cpu")))
    console.print(f"a step of the last stage with L_OD over one without: {against:.1f}")
    keys = {"step_vs_parts": whole.step_vs_parts, "cost_vs_contrastive": against}
    judgement, _ = judged(PACKAGED, quick=quick)
    keys |= {f"generator.{name}": value for name, value in judgement.items()}

    def one(name: str, seed: int) -> Variant:
        changed = {f"method.{field}": value for field, value in changes[name].items()} | {"train.seed": seed}
        recipe, stages = (
            (ALIGNMENT, ("instance", "cross_domain"))
            if name == ALONE
            else (DUDE, ("warm_up", "cross_domain"))
        )
        if quick:
            changed |= {f"method.stages.{stage}": 1 for stage in stages}
        return Variant.make(name, recipe, changed, work)

    rows: dict[str, list[dict[str, float]]] = {}
    for variant in trained([one(name, seed) for seed in numbers for name in names], catalog.path):
        found = figures(variant, catalog, domains)
        rows.setdefault(variant.name, []).append(found)
        console.print(f"{variant.name}, seed {variant.config.train.seed}: {100 * found['map@all']:.2f}")
    before = [
        vars(probed(embed_domains(build_encoder(one(names[0], seed).config), catalog, domains)))
        for seed in numbers
    ]
    keys |= {f"probe.{what}_before": statistics.fmean(row[what] for row in before) for what in before[0]}
    print_rows(console, rows, before)
    for name, key in ((FULL, "dude"), (ALONE, "alignment")):
        if name in rows:
            keys[f"drawings.{key}.map@all"] = statistics.fmean(row["map@all"] for row in rows[name])
    for what in ("domain", "object"):
        if FULL in rows:
            keys[f"probe.{what}_after"] = statistics.fmean(row[what] for row in rows[FULL])
    for name, some in rows.items():
        keys[f"variant.{name}.map@all"] = statistics.fmean(row["map@all"] for row in some)
    if picture is not None:
        draw({name: rows[name] for name in (ALONE, FULL, *CHEAPER) if name in rows}, picture)
    if json_file is not None:
        write_json(json_file, keys)


def print_rows(
    console: Console, rows: dict[str, list[dict[str, float]]], before: list[dict[str, float]]
) -> None:
    """The table of variants."""
    table = Table("", "map@all %", "precision@1 %", "domain by a probe %", "object by a probe %", "minutes")
    table.add_row(
        "before training", "", "", *(percent([row[what] for row in before]) for what in ("domain", "object"))
    )
    for name, found in rows.items():
        cells = [
            percent([row[key] for row in found]) for key in ("map@all", "precision@1", "domain", "object")
        ]
        table.add_row(name, *cells, f"{statistics.fmean(row['seconds'] for row in found) / 60:.1f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
