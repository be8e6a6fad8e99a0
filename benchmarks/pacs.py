"""PACS, category level: zero-training, centring and staged alignment over all twelve ordered pairs.

    python benchmarks/pacs.py --data pacs.zip --weights weights/mobilenet_v1_025_imagenet

The weights are supervised on ImageNet; the papers start from MoCo v2. Compare these figures with each other, not with
the papers'.
"""

from pathlib import Path
from typing import Annotated

import typer
from staged import call, measure, show, unpack

CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "pacs_alignment.yaml"


def main(
    data: Annotated[Path, typer.Option(help="pacs.zip, or the folder of domains inside it.")],
    weights: Annotated[str, typer.Option(help="Backbone in transformers format.")],
    work: Annotated[Path, typer.Option(help="Where catalogs and runs go; what is there is reused.")] = Path(
        "runs/pacs"
    ),
    config: Annotated[Path, typer.Option(help="Recipe.")] = CONFIG,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0,1,2",
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=c of the recipe.")] = None,
    quick: Annotated[
        bool, typer.Option(help="One epoch per stage at 64 px, one seed: a smoke figure.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    overrides = [f"model.backbone={weights}", *(override or [])]
    if quick:
        work, seeds = work / "quick", "0"
        stages = ("instance", "in_domain", "cross_domain")
        overrides += [
            "data.size=64",
            "data.stored_size=64",
            *(f"method.stages.{stage}=1" for stage in stages),
        ]
    work.mkdir(parents=True, exist_ok=True)
    catalog = work / "catalog"
    if not (catalog / "manifest.json").exists():
        call("ingest", unpack(data, work), "--expect", "pacs", "--out", catalog)
    result = measure(catalog, config, overrides, [int(seed) for seed in seeds.split(",")], work)
    show("PACS, category level, mean over all ordered pairs", result, json_file)


if __name__ == "__main__":
    typer.run(main)
