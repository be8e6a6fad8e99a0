"""Domains that share some categories and not others, as rows and as an index that was built to know it."""

from pathlib import Path

import numpy as np

from tests.tiny import encoder, make_catalog, make_embeddings
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.index.build import build

DIM = 16
SHARED, OWN = 6, 2  # categories


def made(seed: int = 0, rows: int = 40) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Two domains' unit rows and categories: 0-5 in both, 6 and 7 in the sketches alone, 8 and 9 in the photos alone.

    Those in both are nearer to each other than to the rest, and the rest leaves the mean where it is: where all are
    equally far, or the means move (Eq. 8), categories of one domain alone merge with each other (Eq. 9).
    """
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.normal(size=(DIM, DIM)))[0]
    centres = np.concatenate([axes[0] + axes[1 : 1 + SHARED], axes[[7]], -axes[[7]], axes[[8]], -axes[[8]]])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    kinds = {
        "sketch": [*range(SHARED + OWN)],
        "photo": [*range(SHARED), *range(SHARED + OWN, SHARED + 2 * OWN)],
    }
    found, labels = {}, {}
    for name, categories in kinds.items():
        labels[name] = np.repeat(categories, rows)
        vectors = centres[labels[name]] + generator.normal(size=(len(labels[name]), DIM)) * 0.03
        vectors += generator.normal(size=DIM) * 0.05
        found[name] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found, labels


def built_index(root: Path) -> tuple[Embeddings, Catalog, Path, dict[str, np.ndarray]]:
    """Embeddings whose vectors are those of `made`, their catalog, the index and the categories."""
    rows, labels = made()
    spread = np.linalg.qr(np.random.default_rng(1).normal(size=(encoder().dim, DIM)))[0]
    catalog = make_catalog(root / "catalog", {name: len(some) for name, some in rows.items()})
    place = {}
    for name in rows:
        for slot, id_ in enumerate(catalog.read(name, ["id"])["id"].to_pylist()):
            place.setdefault(id_, (name, slot))
    embeddings = make_embeddings(
        root / "embeddings",
        catalog,
        lambda id_: spread @ rows[place[id_][0]][place[id_][1]].astype(np.float64),
    )
    build(embeddings, catalog, root / "index", null=1.0)
    return embeddings, catalog, root / "index", labels
