"""Shards that Ray's tasks write are those that one process writes."""

import shutil

import pytest

from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.cluster import index_shards
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.index.build import build
from ucdr_ray.index.search import Index

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def writer(monkeypatch):
    """As with many rows."""
    monkeypatch.setattr(index_shards, "_WORTH", 1)
    monkeypatch.setattr("ucdr_ray.index.build.SMALLEST", 30)
    return index_shards.write_shards


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    catalog = make_catalog(root / "catalog", {"photo": 130, "sketch": 40})
    return catalog, make_embeddings(root / "embeddings", catalog)


@pytest.mark.parametrize("kind", ["exact", "ivf-sq8"])
def test_as_one_process_writes_them(kind, made, writer, tmp_path):
    catalog, embeddings = made
    seen = []
    alone = build(embeddings, catalog, tmp_path / "alone", kind, recall=0.9, rows_per_shard=50)
    spread = build(
        embeddings, catalog, tmp_path / "ray", kind, 0.9, 50, advance=seen.append, write_shards=writer
    )
    assert sum(seen) == 170 and len(seen) == 4
    assert spread.manifest.shards == alone.manifest.shards, "to the last bit"
    queries = embeddings.vectors("photo")
    found, wanted = Index.open(tmp_path / "ray").search(queries), alone.search(queries)
    assert [answer.hits for answer in found] == [answer.hits for answer in wanted]


def test_what_goes_wrong_in_a_task_is_one_line_and_nothing_is_published(made, writer, tmp_path):
    catalog, embeddings = made
    broken = shutil.copytree(catalog.path, tmp_path / "catalog")
    part = next((broken / "images" / "sketch").iterdir())
    opened = type(catalog).open(broken)
    part.unlink()
    with pytest.raises((JobError, UserError), match="part-"):
        build(embeddings, opened, tmp_path / "index", rows_per_shard=50, write_shards=writer)
    assert not (tmp_path / "index" / "CURRENT").exists()
    assert not list((tmp_path / "index" / "versions").iterdir())
