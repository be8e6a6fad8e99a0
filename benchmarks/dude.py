"""DUDE on the package's drawings: the whole method, its ablations, its price, and what makes it cheaper.

Every variant trains on the same drawings with the same encoder, batches and number of epochs; labels judge the finished
encoders only. Two variants train at a time, each on one core. The figures of each finished run go to --kept, from where
the same command goes on, also on another machine: they hold no times. Times are of steps, side by side in this run.

step_vs_parts: seconds of a step of L_OD over those of its parts that nobody can spare. cost_vs_contrastive: seconds of
a step with L_OD over those of the same step without it. cost: of a whole training, in steps of staged alignment alone.

    python benchmarks/dude.py --kept docs/dude_runs.json --picture docs/dude_cost.png --json dude.json
"""

import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from dude_cost import matrix_rate, show
from dude_price import measured, precision
from generator import judged
from rich.console import Console
from rich.table import Table
from staged import call, judge
from study import Kept, Variant, percent, trained

from ucdr_ray.catalog import Catalog
from ucdr_ray.config import RunConfig, load_config
from ucdr_ray.drawings import ALIGNMENT, DUDE
from ucdr_ray.drawings.train_generator import SYNONYMS
from ucdr_ray.engine import build_encoder
from ucdr_ray.evaluation.content_probes import probed_on
from ucdr_ray.files import sha256_file, write_json
from ucdr_ray.method_settings import DudeConfig
from ucdr_ray.methods.dude import start_content
from ucdr_ray.models.content import content_encoder, load_content
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_files import DRAWINGS, PACKAGED, load_generator

FULL, ALONE = "DUDE", "staged alignment alone"
BEFORE = "before training"
THROUGHOUT: dict[str, object] = {"keep_od": True, "od_every": 4}  # the recipe has L_OD in its warm-up only
WEIGHTS = Path(DRAWINGS) / "unet" / "diffusion_pytorch_model.safetensors"

KEYS = (
    ("drawings.dude.map@all", FULL, "map@all"),
    ("drawings.alignment.map@all", ALONE, "map@all"),
    ("probe.domain_before", BEFORE, "domain"),
    ("probe.object_before", BEFORE, "object"),
    ("probe.domain_after", FULL, "domain"),
    ("probe.object_after", FULL, "object"),
)
COLUMNS = {
    "map@all": "map@all %",
    "precision@1": "precision@1 %",
    "domain": "domain, by a probe %",
    "object": "object, by a probe %",
    "z domain": "domain, from [z] %",
    "z object": "object, from [z] %",
}


def variants() -> dict[str, dict[str, object]]:
    """What each changes in the recipe; all have its epochs."""
    method = load_config(DUDE).method
    assert isinstance(method, DudeConfig)
    stages = method.stages
    before = stages.warm_up + stages.in_domain
    return {
        ALONE: {"stages.instance": before, "stages.cross_domain": stages.cross_domain},
        FULL: {},
        "no stages": {
            "stages.warm_up": 0,
            "stages.in_domain": 0,
            "stages.cross_domain": before + stages.cross_domain,
            **THROUGHOUT,
        },
        'one style, "photo"': {"fixed_style": "photo"},
        "all neighbours, not mutual": {"mutual": False},
        "k = 5": {"k_cross": 5},
        "k = 20": {"k_cross": 20},
        "k = 20, not mutual": {"k_cross": 20, "mutual": False},
        "other words for the styles": {"styles": SYNONYMS},
        "style words tuned": {"style_tokens": "tuned"},
        "style words from nothing": {"style_tokens": "free"},
        # What L_OD gives where next to no noise is on the images: the predicted noise hardly depends on the words.
        "times at which words say nothing": {"time_high": 0.02},
    }


CHEAPER: dict[str, dict[str, object]] = {
    "32 px": {"generator_size": 32},
    "two epochs of warm-up": {"stages.warm_up": 2, "stages.in_domain": 10},
    "L_OD kept, every 4th step": THROUGHOUT,
    "L_OD kept, every 16th step": {"keep_od": True, "od_every": 16},
    "times below 0.25": {"time_high": 0.25},
    "times from 0.25 to 0.5": {"time_low": 0.25},
    "times from 0.5": {"time_low": 0.5, "time_high": 1},
    "all times": {"time_high": 1},
    "times from 0.7": {"time_low": 0.7, "time_high": 1},
    "times from 0.7, L_OD kept, every 4th step": {"time_low": 0.7, "time_high": 1, **THROUGHOUT},
}


def judged_run(variant: Variant, catalog: Catalog, names: list[str]) -> dict[str, float]:
    """Of a finished run: retrieval, and what probes read off its embedding and off [z]."""
    encoder, content = Encoder.load(variant.run / "encoder"), variant.run / "content"
    mean = judge(encoder, catalog, names)["mean"]
    found = {name: mean[name] for name in ("map@all", "precision@1")} | read_off(encoder, "", catalog, names)
    if content.is_dir():
        found |= read_off(content_encoder(encoder, load_content(content).word), "z ", catalog, names)
    return found


def before(config: RunConfig, catalog: Catalog, names: list[str]) -> dict[str, float]:
    """The probes of what training starts from."""
    encoder = build_encoder(config)
    content = start_content(load_generator(PACKAGED), encoder, config.train.seed)
    return read_off(encoder, "", catalog, names) | read_off(
        content_encoder(encoder, content), "z ", catalog, names
    )


def read_off(encoder: Encoder, of: str, catalog: Catalog, names: list[str]) -> dict[str, float]:
    """Linear probes of an encoder's vectors: "{of}domain" and "{of}object"."""
    return {f"{of}{what}": share for what, share in vars(probed_on(encoder, catalog, names)).items()}


def draw(rows: dict[str, list[dict[str, float]]], costs: dict[str, float], file: Path) -> None:
    """What each way to pay less costs and finds; the line joins those that no other beats in both."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    means = {name: 100 * statistics.fmean(row["map@all"] for row in found) for name, found in rows.items()}
    front: list[str] = []
    for name in sorted(means, key=lambda name: (costs[name], -means[name])):
        if not front or means[name] > means[front[-1]]:
            front.append(name)
    axes.plot([costs[name] for name in front], [means[name] for name in front], color="#c9ced6", zorder=0)
    for name, found in rows.items():
        values = [100 * row["map@all"] for row in found]
        y, spread = means[name], statistics.stdev(values) if len(values) > 1 else 0
        colour = {FULL: "#d1495b", ALONE: "#5b6470"}.get(name, "#30638e")
        axes.errorbar(costs[name], y, spread, fmt="o", color=colour, capsize=3)
        crowded = any(0 < costs[name] - costs[other] < 0.3 and abs(y - means[other]) < 0.5 for other in rows)
        beside, side = ((-7, -12), "right") if name == FULL else ((7, -12 if crowded else 4), "left")
        axes.annotate(name, (costs[name], y), beside, textcoords="offset points", ha=side, fontsize=9)
    axes.set_xlabel("cost of training, as a multiple of staged alignment alone")
    axes.set_ylabel("map@all, mean over the twelve ordered pairs, %")
    seeds = max(len(found) for found in rows.values())
    over = f"mean and standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    axes.set_title(f"What L_OD costs, and what it gives (drawings; {over})")
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
    kept: Annotated[
        Path | None, typer.Option(help="Figures of finished runs: read, and added to, run by run.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw cost and map@all to this PNG.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    changes = variants() | CHEAPER
    names = only or list(changes)
    if unknown := set(names) - set(changes):
        raise SystemExit(f"--only {', '.join(unknown)}: allowed are {', '.join(changes)}")
    numbers = [0] if quick else [int(seed) for seed in seeds.split(",")]
    work = work / "quick" if quick else work
    names = [ALONE, FULL] if quick else names
    catalog = drawn(work, 10 if quick else 50)
    domains = [domain.name for domain in catalog.domains]
    console = Console(width=120)

    def one(name: str, seed: int) -> Variant:
        changed = {f"method.{field}": value for field, value in changes[name].items()}
        changed["train.seed"] = seed
        recipe, stages = (
            (ALIGNMENT, ("instance", "cross_domain"))
            if name == ALONE
            else (DUDE, ("warm_up", "cross_domain"))
        )
        if quick:
            changed |= {f"method.stages.{stage}": 1 for stage in stages}
        return Variant.make(name, recipe, changed, work)

    rows = Kept(None if quick else kept, sha256_file(WEIGHTS))
    asked = [one(name, seed) for seed in numbers for name in names]
    table: dict[str, list[dict[str, float]]] = {}
    for seed in numbers:
        config = one(ALONE, seed).config  # whose encoder is the same, and its recipe changes seldom
        start = rows.get(config, BEFORE) or before(config, catalog, domains)
        rows.add(BEFORE, config, start, BEFORE)
        table.setdefault(BEFORE, []).append(start)
    for variant in trained([v for v in asked if rows.get(v.config) is None], catalog.path):
        found = judged_run(variant, catalog, domains)
        rows.add(variant.name, variant.config, found)
        console.print(f"{variant.name}, seed {variant.config.train.seed}: {100 * found['map@all']:.2f}")

    whole, price = measured(3 if quick else 15, [16, 32])
    title = f"A step of L_OD, {whole.rows} images, {torch.get_num_threads()} threads"
    show(console, title, whole, matrix_rate(precision(), torch.device("cpu")))
    method = load_config(DUDE).method
    assert isinstance(method, DudeConfig)
    assert method.generator_size is not None
    side, against = method.generator_size, {px: seconds / price.alone for px, seconds in price.both.items()}
    for px, ratio in against.items():
        console.print(f"a step of the last stage with L_OD at {px} px over one without: {ratio:.1f}")
    keys = {"step_vs_parts": whole.step_vs_parts, "cost_vs_contrastive": against[side]}
    own = load_config(ALIGNMENT)
    judgement = rows.get(own, "generator") or judged(PACKAGED, quick=quick)[0]
    rows.add("the generator", own, judgement, "generator")
    keys |= {f"generator.{name}": value for name, value in judgement.items()}
    for variant in asked:
        table.setdefault(variant.name, []).append(rows.get(variant.config) or {})
    unit = price.of(one(ALONE, 0).config, 32)
    costs = {name: price.of(one(name, 0).config, 32) / unit for name in names}
    print_rows(console, table, costs)
    keys |= {
        f"{name}.{what}": statistics.fmean(row[what] for row in found)
        for name, found in table.items()
        for what in found[0]
    }
    keys |= {f"{name}.cost": cost for name, cost in costs.items()}
    for key, name, what in KEYS:
        if name in table:
            keys[key] = keys[f"{name}.{what}"]
    if picture is not None:
        draw({name: table[name] for name in (ALONE, FULL, *CHEAPER) if name in table}, costs, picture)
    if json_file is not None:
        write_json(json_file, keys)


def drawn(work: Path, per_class: int) -> Catalog:
    """The drawings' catalog."""
    if not (work / "catalog" / "manifest.json").exists():
        call("draw", "--out", work / "drawings", "--per-class", per_class, "--size", 64)
        call("ingest", work / "drawings", "--out", work / "catalog")
    return Catalog.open(work / "catalog")


def print_rows(console: Console, rows: dict[str, list[dict[str, float]]], costs: dict[str, float]) -> None:
    """The table of variants."""
    table = Table("", *COLUMNS.values(), "cost")
    for name, found in rows.items():
        cells = [percent([row[key] for row in found]) if key in found[0] else "" for key in COLUMNS]
        table.add_row(name, *cells, f"{costs[name]:.2f}" if name in costs else "")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
