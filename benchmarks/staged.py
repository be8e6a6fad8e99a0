"""Train over several seeds and account for each stage: what `pacs.py` and `emoji.py` share.

Labels serve to judge the finished checkpoints only; training never sees them, and the last epoch is what counts.
"""

import json
import os
import platform
import statistics
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from ucdr_ray.catalog import Catalog
from ucdr_ray.checkpoint import checkpoints, load_checkpoint
from ucdr_ray.cli import run as ucdr
from ucdr_ray.config import RunConfig, load_config
from ucdr_ray.engine import build_encoder
from ucdr_ray.evaluation.features import embed_domains
from ucdr_ray.evaluation.protocols import DomainVectors, evaluate_pairs
from ucdr_ray.files import read_json, write_json
from ucdr_ray.method_settings import Contrastive
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.memory import LocalMemory, Neighbourhood

SHOWN = ("map@all", "precision@1", "capped_precision@50", "precision@200")


def unpack(archive: Path, work: Path) -> Path:
    """The folder of domains inside a ZIP file (unpacked once under `work`), or `archive` itself if it is a folder."""
    if archive.is_dir():
        return archive
    target = work / archive.stem
    if not (target / "complete").exists():
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)
        (target / "complete").touch()
    folders = [path for path in target.iterdir() if path.is_dir()]
    return folders[0] if len(folders) == 1 else target


def call(*arguments: object) -> None:
    """One `ucdr` command; the benchmark ends with its exit code if it fails."""
    code = ucdr([str(argument) for argument in arguments])
    if code != 0:
        raise SystemExit(code)


def purity(memory: LocalMemory, labels: list[list[str | None]]) -> dict[str, float]:
    """Of the present neighbour graphs: share of edges that join equal labels, and of rows with an edge; means."""
    shares, pure = [], []
    for (a, b), graph in memory.graphs.items():
        if a == b or len(graph.indices) == 0:
            continue
        rows = torch.repeat_interleave(torch.arange(len(labels[a])), graph.indptr.diff())
        equal = [
            labels[a][i] == labels[b][j] for i, j in zip(rows.tolist(), graph.indices.tolist(), strict=True)
        ]
        pure.append(sum(equal) / len(equal))
        shares.append(graph.share())
    return {"purity": statistics.fmean(pure), "share": statistics.fmean(shares)} if pure else {}


def judge_checkpoint(
    folder: Path, config: RunConfig, catalog: Catalog, names: list[str], full: bool
) -> dict[str, float]:
    """Of a checkpoint: purity of its cross-domain neighbours (un-augmented keys); retrieval too, if `full`."""
    tensors, values = load_checkpoint(folder)

    def encoder(part: str, embedding: Literal["head", "backbone"]) -> Encoder:
        built = build_encoder(config)
        built.load_state_dict({
            name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)
        })  # fmt: skip
        built.embedding = embedding
        return built.eval()

    target, method = encoder("target.", "head"), config.method
    assert isinstance(method, Contrastive)
    keys = embed_domains(target, catalog, names)
    memory = LocalMemory([(name, len(keys[name].ids)) for name in names], target.head_dim)
    for index, name in enumerate(names):
        rows = torch.arange(len(keys[name].ids))
        memory.push(torch.full_like(rows, index), rows, torch.from_numpy(keys[name].vectors))
    memory.rebuild(Neighbourhood(None, method.k_cross, method.mutual, method.centre))
    result = {"epoch": float(values["epoch"])} | purity(memory, [list(keys[name].labels) for name in names])
    if full:
        result |= judge(encoder("encoder.", config.model.embedding), catalog, names)["mean"]
    return result


def judge(encoder: Encoder, catalog: Catalog, names: list[str], centred: bool = False) -> dict[str, Any]:
    """`ucdr evaluate` of an encoder in memory."""
    return evaluate_pairs(embed_domains(encoder, catalog, names), centred=centred)


def measure(
    catalog_path: Path, config_path: Path, overrides: list[str], seeds: list[int], work: Path
) -> dict[str, Any]:
    """Zero-training, centring, and the run of each seed with its stages, on one catalog."""
    catalog = Catalog.open(catalog_path)
    config = load_config(config_path, overrides)
    names = config.data.domains or [domain.name for domain in catalog.domains]
    backbone = Encoder.from_backbone(config.model.backbone, config.data.size)
    vectors: dict[str, DomainVectors] = embed_domains(backbone, catalog, names)
    result: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "method": config.method.name,
        "zero": evaluate_pairs(vectors),
        "centred": evaluate_pairs(vectors, centred=True),
        "runs": [],
    }
    ends, end = {}, 0
    for stage, epochs in config.method.stages:
        end += epochs
        if epochs:
            ends[end] = stage
    for seed in seeds:
        run = work / f"run-{seed}"
        extra = [f"train.seed={seed}", "train.keep_checkpoints=1000", *overrides]
        settings = [part for override in extra for part in ("--set", override)]
        # A finished run is left as it is, one of another recipe refused.
        resume = ["--resume"] if run.is_dir() else []
        call("train", "--catalog", catalog_path, "--config", config_path, *settings, "--out", run, *resume)
        seeded = load_config(config_path, extra)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        track = [
            judge_checkpoint(folder, seeded, catalog, names, epoch in ends)
            for folder in checkpoints(run / "checkpoints")
            if (epoch := read_json(folder / "state.json", "checkpoint")["epoch"])
        ]
        final = judge(Encoder.load(run / "encoder"), catalog, names)
        result["runs"].append({
            "seed": seed,
            "minutes": sum(line["seconds"] for line in lines) / 60,
            "stages": {ends[int(row["epoch"])]: row for row in track if int(row["epoch"]) in ends},
            "purity": [{key: row[key] for key in ("epoch", "purity", "share") if key in row} for row in track],
            "trained": final,
        })  # fmt: skip
        write_json(work / "result.json", result)
    return result


def show(title: str, result: dict[str, Any], json_file: Path | None) -> None:
    """Print the tables; write the flat keys."""
    console = Console(width=140)
    table = Table("", *(f"{name} %" for name in SHOWN), "minutes", title=f"{title} ({result['machine']})")

    def row(name: str, means: list[dict[str, float]], minutes: str = "") -> None:
        cells = []
        for metric in SHOWN:
            values = [100 * mean[metric] for mean in means]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.2f}{spread}")
        table.add_row(name, *cells, minutes)

    runs = result["runs"]
    row("zero-training", [result["zero"]["mean"]])
    row("zero-training, centred", [result["centred"]["mean"]])
    for stage in runs[0]["stages"]:
        row(f"after stage {stage}", [run["stages"][stage] for run in runs])
    row(
        f"{result['method']}, {len(runs)} seeds",
        [run["trained"]["mean"] for run in runs],
        f"{statistics.fmean(run['minutes'] for run in runs):.1f}",
    )
    console.print(table)
    growth = Table(
        "epoch",
        "purity",
        "share of rows with a neighbour",
        title=f"mutual neighbours across domains, mean over pairs and {len(runs)} seeds",
    )
    for entries in zip(*(run["purity"] for run in runs), strict=True):
        if all("purity" in entry for entry in entries):
            means = [statistics.fmean(entry[key] for entry in entries) for key in ("purity", "share")]
            growth.add_row(f"{entries[0]['epoch']:.0f}", *(f"{mean:.3f}" for mean in means))
    console.print(growth)
    if json_file is not None:
        write_json(json_file, flat(result))


def flat(result: dict[str, Any]) -> dict[str, float]:
    """Flat keys -> fractions, as programs read them."""
    method = result["method"]
    final = [run["trained"]["mean"]["map@all"] for run in result["runs"]]
    keys = {
        f"{name}.{metric}": result[name]["mean"][metric] for name in ("zero", "centred") for metric in SHOWN
    }
    for metric in SHOWN:
        keys[f"{method}.{metric}"] = statistics.fmean(
            run["trained"]["mean"][metric] for run in result["runs"]
        )
    keys[f"{method}.map@all.sd"] = statistics.stdev(final) if len(final) > 1 else 0.0
    for stage in result["runs"][0]["stages"]:
        keys[f"stage.{stage}.map@all"] = statistics.fmean(
            run["stages"][stage]["map@all"] for run in result["runs"]
        )
    keys["minutes"] = statistics.fmean(run["minutes"] for run in result["runs"])
    return keys
