"""A small index, shared by the tests of a module."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.index.build import build

COUNTS = {"Real World": 1, "photo": 40, "sketch": 23}


@dataclass(frozen=True)
class World:
    catalog: Catalog
    embeddings: Embeddings
    index: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("world")
    catalog = make_catalog(root / "catalog", COUNTS)
    embeddings = make_embeddings(root / "embeddings", catalog)
    build(embeddings, catalog, root / "index", rows_per_shard=9)
    return World(catalog, embeddings, root / "index")


@pytest.fixture
def copy(world, tmp_path) -> Path:
    return Path(shutil.copytree(world.index, tmp_path / "index"))
