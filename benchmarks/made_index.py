"""Indexes of many rows for benchmarks: vectors are given or made, every row shows the same small picture.

Real rows (embeddings folders of `ucdr embed`, 256 dimensions) are repeated up to the size wanted, each time with fresh
noise as long as 0.7 of the distance to the row's nearest neighbour. Without them: Gaussian clusters of 24 directions,
shifted by domain.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn.functional import normalize

from ucdr_ray import catalog as catalogs
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import CatalogRef, DomainVectors, Embeddings, ModelRef, Part
from ucdr_ray.embeddings_writer import publish, write_part
from ucdr_ray.files import write_json
from ucdr_ray.index.build import build
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.neighbors.nearest import Nearest, scores_of
from ucdr_ray.neighbors.search import Rows, search

DIM = 256
_PART = 50_000  # rows of a file


def made_rows(count: int, domains: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 (count / domains, 256) unit rows of each domain: clusters that all domains share."""
    draw = torch.Generator().manual_seed(seed)
    clusters = 1_000
    base = torch.randn(clusters, DIM, generator=draw)
    spread = torch.randn(clusters, 24, DIM, generator=draw) * 0.5
    found = {}
    for number in range(domains):
        rows = _share(count, domains, number)
        which = torch.randint(clusters, (rows,), generator=draw)
        shift = torch.randn(DIM, generator=draw) * 0.5
        made = torch.empty(rows, DIM)
        for start in range(0, rows, 20_000):
            some = which[start : start + 20_000]
            inside = torch.randn(len(some), 1, 24, generator=draw)
            made[start : start + 20_000] = (
                base[some] + (inside @ spread[some]).squeeze(1) / 24**0.5 * 2 + shift
            )
        found[f"domain-{number}"] = normalize(made, dim=1).numpy()
    return found


def real_rows(folders: list[Path], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The same from the domains of embeddings folders."""
    opened = [Embeddings.open(folder) for folder in folders]
    names = [(embeddings, domain.name) for embeddings in opened for domain in embeddings.domains]
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for number, (embeddings, name) in enumerate(names):
        features = torch.from_numpy(embeddings.vectors(name).copy())
        nearest = Nearest(len(features), 1)
        search(Rows.all(features), nearest)
        distance = 0.7 * (2 - 2 * scores_of(nearest.codes())).clamp(min=0).sqrt()
        which = torch.arange(_share(count, len(names), number)) % len(features)
        noise = torch.randn(len(which), DIM, generator=draw) * (distance[which] / DIM**0.5).reshape(-1, 1)
        noise[: len(features)] = 0
        found[name] = normalize(features[which] + noise, dim=1).numpy()
    return found


def _share(count: int, parts: int, number: int) -> int:
    return count * (number + 1) // parts - count * number // parts


def small_index(work: Path) -> Path:
    """An index of a few rows, which takes what any does."""
    if not (work / "index" / "CURRENT").exists():
        build(*write_embeddings(work, made_rows(100, 2)), work / "index")
    return work / "index"


def write_embeddings(folder: Path, rows: dict[str, np.ndarray]) -> tuple[Embeddings, Catalog]:
    """A catalog and embeddings of these rows, in `folder`."""
    encoder = Encoder.from_backbone("random:resnet-mini", size=32)
    encoder.save(folder / "embeddings" / "encoder")
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), (200, 120, 60)).save(buffer, "PNG")
    domains, vectors = [], []
    for number, name in enumerate(sorted(rows)):
        parts: list[catalogs.Part] = []
        written: list[Part] = []
        for first in range(0, len(rows[name]), _PART):
            some = rows[name][first : first + _PART]
            slots = range(first, first + len(some))
            ids = [f"{number:04x}{slot:028x}" for slot in slots]
            table = pa.table(
                {
                    "id": ids,
                    "slot": list(slots),
                    "domain": [name] * len(ids),
                    "image": [buffer.getvalue()] * len(ids),
                    "width": [24] * len(ids),
                    "height": [24] * len(ids),
                    "source": [f"{name}/{slot}.png" for slot in slots],
                    "label": [None] * len(ids),
                },
                schema=catalogs.SCHEMA,
            )
            file = f"images/{name}/part-{len(parts):05d}.parquet"
            path = folder / "catalog" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
            parts.append(catalogs.Part.of(folder / "catalog", file, rows=len(ids), first_slot=first))
            file = file.replace("images/", "vectors/")
            written.append(write_part(folder / "embeddings", file, name, first, ids, some, {}))
        domains.append(catalogs.Domain(name=name, images=len(rows[name]), labelled=0, classes=0, parts=parts))
        vectors.append(DomainVectors(name=name, rows=len(rows[name]), parts=written))
    manifest = catalogs.Manifest(
        fingerprint=catalogs.fingerprint_of(domains),
        inputs="0" * 64,
        max_side=None,
        domains=domains,
        classes=[],
        duplicates=0,
        rejects=0,
        sources=[],
    )
    write_json(folder / "catalog" / "manifest.json", manifest.model_dump())
    catalog = Catalog.open(folder / "catalog")
    embeddings = publish(
        folder / "embeddings",
        DIM,
        ModelRef(name=encoder.name, fingerprint=encoder.fingerprint),
        CatalogRef(fingerprint=catalog.fingerprint, path=str(catalog.path)),
        vectors,
    )
    return embeddings, catalog
