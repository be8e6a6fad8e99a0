"""Ingest alone limits pixels: what it accepted, every later job takes; what can't be decoded is one line everywhere."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.pictures import catalog as ingest
from tests.pictures import noise, tree
from tests.tiny import encoder, make_embeddings
from ucdr_ray import cli, images
from ucdr_ray.catalog import SCHEMA, Catalog
from ucdr_ray.cluster.part_embedder import PartEmbedder
from ucdr_ray.decoded import decode, spans
from ucdr_ray.errors import JobError
from ucdr_ray.evaluation.features import embed_domain
from ucdr_ray.evaluation.report_examples import pictures_of
from ucdr_ray.images import Reject
from ucdr_ray.index.build import build

SIDE = 140  # above that of a thumbnail


@pytest.fixture
def catalog(tmp_path, monkeypatch) -> Catalog:
    """Images of more pixels than the default allows from here on."""
    names = [f"{domain}/{kind}/{n}.png" for domain in ("photo", "sketch") for kind in "ab" for n in range(2)]
    source = tree(tmp_path / "data", {name: noise(seed, SIDE, SIDE) for seed, name in enumerate(names)})
    made = ingest(tmp_path / "catalog", source)
    for function in (images.decode, images.to_array, images.prepare):
        default = [limit if limit != images.DEFAULT_MAX_PIXELS else 100 for limit in function.__defaults__]
        monkeypatch.setattr(function, "__defaults__", tuple(default))
    with pytest.raises(Reject, match="too many pixels"):
        images.decode(noise(0, SIDE, SIDE))
    return made


def embedded_part(catalog: Catalog, folder: Path) -> dict[str, str]:
    encoder().save(folder / "encoder")
    part = catalog.domain("photo").parts[0]
    row = {
        "source": str(catalog.path / part.file),
        "out": str(folder),
        "file": "vectors/photo/part-00000.parquet",
        "domain": "photo",
        "first_slot": 0,
        "made_from": {},
    }
    return PartEmbedder(str(folder / "encoder"), batch=8, threads=1)(row)


def test_every_job_takes_what_ingest_accepted(catalog, tmp_path, capsys):
    assert decode(spans(catalog, "photo"), 32, "squash").shape == (4, 3, 32, 32)
    assert embed_domain(encoder(), catalog, "photo").vectors.shape == (4, 256)
    assert json.loads(embedded_part(catalog, tmp_path / "embedded")["part"])["rows"] == 4
    built = build(make_embeddings(tmp_path / "embeddings", catalog), catalog, tmp_path / "index")
    assert built.manifest.totals.rows == 8
    assert [picture.size for picture in pictures_of(catalog)("photo", [0, 3])] == [(SIDE, SIDE)] * 2
    arguments = ["--backbone", "random:resnet-mini", "--size", "32", "--json", "-"]
    assert cli.run(["evaluate", "--catalog", str(catalog.path), *arguments]) == 0


def test_an_image_that_cannot_be_decoded_is_one_line_everywhere(catalog, tmp_path):
    embeddings = make_embeddings(tmp_path / "embeddings", catalog)
    path = catalog.path / catalog.domain("photo").parts[0].file
    table = pq.read_table(path)
    broken = [data[:200] for data in table["image"].to_pylist()]
    place = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place, SCHEMA.field("image"), [broken]), path)
    for use in (
        lambda: decode(spans(catalog, "photo"), 32, "squash"),
        lambda: embed_domain(encoder(), catalog, "photo"),
        lambda: build(embeddings, catalog, tmp_path / "index"),
        lambda: pictures_of(catalog)("photo", [0, 3]),
    ):
        with pytest.raises(JobError, match="truncated PNG data") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert "truncated PNG data" in embedded_part(catalog, tmp_path / "embedded")["error"]
