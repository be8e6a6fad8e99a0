"""Small catalogs and embeddings for tests that need folders, not learning."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ucdr_ray import catalog as catalogs
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import CatalogRef, DomainVectors, Embeddings, ModelRef
from ucdr_ray.embeddings_writer import publish, write_part
from ucdr_ray.files import write_json
from ucdr_ray.images import content_id
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.small_clip import save_clip, small_clip


@cache
def encoder() -> Encoder:
    """A small encoder with random weights: 256 dimensions, 32 × 32 pixels."""
    return Encoder.from_backbone("random:resnet-mini", size=32)


def picture(seed: int, side: int = 24) -> bytes:
    """A PNG of smooth random colour."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def make_catalog(path: Path, counts: dict[str, int], rows_per_part: int = 16, side: int = 24) -> Catalog:
    """A catalog of `counts[domain]` pictures each; every seventh repeats the one before it."""
    domains = []
    for number, (name, count) in enumerate(sorted(counts.items())):
        parts = []
        for first in range(0, count, rows_per_part):
            slots = list(range(first, min(first + rows_per_part, count)))
            images = [picture(1000 * number + (slot - 1 if slot % 7 == 6 else slot), side) for slot in slots]
            columns = {
                "id": [content_id(image) for image in images],
                "slot": slots,
                "domain": [name] * len(slots),
                "image": images,
                "width": [side] * len(slots),
                "height": [side] * len(slots),
                "source": [f"{name}/{slot}.png" for slot in slots],
                "label": [None] * len(slots),
            }
            file = f"images/{name}/part-{len(parts):05d}.parquet"
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns, schema=catalogs.SCHEMA), path / file)
            parts.append(catalogs.Part.of(path, file, rows=len(slots), first_slot=first))
        domains.append(catalogs.Domain(name=name, images=count, labelled=0, classes=0, parts=parts))
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
    write_json(path / "manifest.json", manifest.model_dump())
    return Catalog.open(path)


@cache
def clip() -> Encoder:
    """A small encoder with random weights that reads text, too: 128 dimensions, 64 × 64 pixels."""
    with TemporaryDirectory() as folder:
        save_clip(*small_clip(["a", "of", "cat", "tree", "house"]), Path(folder) / "small")
        return Encoder.from_backbone(f"{folder}/small")


def random_vector(id_: str, dim: int | None = None) -> np.ndarray:
    """A direction for an image, by its id."""
    return np.random.default_rng(int(id_, 16)).normal(size=dim or encoder().dim)


def make_embeddings(
    path: Path,
    catalog: Catalog,
    vector: Callable[[str], np.ndarray] = random_vector,
    made_by: Encoder | None = None,
) -> Embeddings:
    """Made-up unit vectors in place of the encoder's; equal images get equal vectors."""
    model = made_by or encoder()
    model.save(path / "encoder")
    domains = []
    for domain in catalog.domains:
        parts = []
        for part in domain.parts:
            rows = slice(part.first_slot, part.first_slot + part.rows)
            ids = catalog.read(domain.name, ["id"])["id"].to_pylist()[rows]
            vectors = np.stack([vector(id_) for id_ in ids])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            file = part.file.replace("images/", "vectors/")
            parts.append(write_part(path, file, domain.name, part.first_slot, ids, vectors, {}))
        domains.append(DomainVectors(name=domain.name, rows=domain.images, parts=parts))
    return publish(
        path,
        model.dim,
        ModelRef(name=model.name, fingerprint=model.fingerprint),
        CatalogRef(fingerprint=catalog.fingerprint, path=str(catalog.path)),
        domains,
    )
