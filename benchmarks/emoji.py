"""The same emoji drawn by several vendors: does an emoji of one vendor find itself among another's?

Instance level: two images are equal iff they show the same code point. Zero-training against staged alignment.

    python benchmarks/emoji.py --data emoji.zip --weights weights/mobilenet_v1_025_imagenet
"""

from pathlib import Path
from typing import Annotated

import typer
from staged import call, measure, show, unpack

CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "emoji_alignment.yaml"


def main(
    data: Annotated[Path, typer.Option(help="emoji.zip, or the folder of vendors inside it.")],
    weights: Annotated[str, typer.Option(help="Backbone in transformers format.")],
    work: Annotated[Path, typer.Option(help="Where catalogs and runs go; what is there is reused.")] = Path(
        "runs/emoji"
    ),
    config: Annotated[Path, typer.Option(help="Recipe.")] = CONFIG,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0,1,2",
    override: Annotated[list[str] | None, typer.Option("--set", help="a.b=c of the recipe.")] = None,
    quick: Annotated[bool, typer.Option(help="Two epochs, one seed, three vendors: a smoke figure.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Flat keys -> numbers.")] = None,
) -> None:
    overrides = [f"model.backbone={weights}", *(override or [])]
    if quick:
        work, seeds = work / "quick", "0"
        overrides += [
            "data.domains=[noto, openmoji, twemoji]",
            "method.stages.instance=1",
            "method.stages.cross_domain=1",
        ]
    work.mkdir(parents=True, exist_ok=True)
    catalog = work / "catalog"
    if not (catalog / "manifest.json").exists():
        call("ingest", unpack(data, work), "--labels", "stem", "--out", catalog)
    result = measure(catalog, config, overrides, [int(seed) for seed in seeds.split(",")], work)
    show("emoji, instance level, mean over all ordered pairs of vendors", result, json_file)


if __name__ == "__main__":
    typer.run(main)
