"""Embedding gives one vector for each row, the same however it is spread, and goes on where it stopped."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from tests.tiny import encoder, make_catalog
from ucdr_ray import catalog as catalogs
from ucdr_ray.catalog import Catalog
from ucdr_ray.cluster.embedding import embed
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import write_json
from ucdr_ray.images import to_array
from ucdr_ray.models.encoder import Encoder

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    return make_catalog(
        tmp_path_factory.mktemp("world") / "catalog", {"Real World": 1, "photo": 40, "sketch": 23}
    )


@pytest.fixture(scope="module")
def whole(catalog, tmp_path_factory) -> Embeddings:
    return embed(encoder(), catalog, tmp_path_factory.mktemp("world") / "embeddings", batch=8, actors=2)


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "embeddings"))


def parts_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_one_unit_vector_for_each_row_as_the_encoder_gives_it(catalog, whole):
    opened = Embeddings.open(whole.path)
    assert [(domain.name, domain.rows) for domain in opened.domains] == [
        ("Real World", 1),
        ("photo", 40),
        ("sketch", 23),
    ]
    assert (
        opened.model.fingerprint == encoder().fingerprint == Encoder.load(whole.path / "encoder").fingerprint
    )
    assert opened.catalog.fingerprint == catalog.fingerprint
    for domain in catalog.domains:
        table = catalog.read(domain.name, ["id", "image"])
        assert opened.ids(domain.name).to_pylist() == table["id"].to_pylist()
        images = np.stack([to_array(image, 32) for image in table["image"].to_pylist()])
        expected = encoder().encode(torch.from_numpy(images)).numpy()
        vectors = opened.vectors(domain.name)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=2e-6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_domains_can_be_added_and_batch_and_actors_do_not_matter(catalog, whole, tmp_path):
    first = embed(encoder(), catalog, tmp_path / "out", domains=["sketch"], batch=1, actors=1)
    assert [domain.name for domain in first.domains] == ["sketch"]
    inode = os.stat(tmp_path / "out/vectors/sketch/part-00000.parquet").st_ino
    second = embed(encoder(), catalog, tmp_path / "out", batch=64, actors=3)
    assert os.stat(tmp_path / "out/vectors/sketch/part-00000.parquet").st_ino == inode
    assert [domain.name for domain in second.domains] == [domain.name for domain in whole.domains]
    for domain in catalog.domains:
        np.testing.assert_allclose(second.vectors(domain.name), whole.vectors(domain.name), atol=2e-6)


def test_a_second_call_changes_nothing(catalog, copy):
    times = {
        path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and path.name != ".lock"
    }
    embed(encoder(), catalog, copy, batch=8)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def damage_parts(folder: Path) -> None:
    """Under a manifest that is there: a part is gone, one has a flipped bit, one receipt is cut."""
    (folder / "vectors/sketch/part-00001.parquet").unlink()
    path = folder / "vectors/photo/part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    path = folder / "vectors/photo/part-00000.json"
    path.write_bytes(path.read_bytes()[:50])


def leave_foreign_files(folder: Path) -> None:
    """As a killed job of another model and catalog would: parts with receipts, no manifest, half-written files."""
    (folder / "manifest.json").unlink()
    receipt = folder / "vectors/photo/part-00000.json"
    content = json.loads(receipt.read_text())
    content["made_from"]["model"] = "0" * 64
    write_json(receipt, content)
    shutil.copytree(folder / "vectors/photo", folder / "vectors/painting")
    (folder / "vectors/sketch/.part-00001.parquet.abc.tmp").write_bytes(b"half")
    (folder / ".encoder.abc.tmp").mkdir()
    (folder / "encoder/encoder.safetensors").write_bytes(b"")


@pytest.mark.parametrize("fault", [damage_parts, leave_foreign_files])
def test_a_call_after_an_interruption_equals_an_uninterrupted_one(
    catalog, whole, copy, fault: Callable[[Path], None]
):
    kept = copy / "vectors/photo/part-00002.parquet"
    before = kept.stat().st_ino
    fault(copy)
    embed(encoder(), catalog, copy, batch=8)
    assert Embeddings.open(copy).manifest == whole.manifest
    assert parts_of(copy) == parts_of(whole.path)
    assert kept.stat().st_ino == before
    assert not list(copy.rglob("*.tmp"))


def test_an_unfinished_folder_is_not_opened(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(UserError, match="no embeddings manifest"):
        Embeddings.open(copy)


def test_finished_embeddings_are_not_overwritten_by_others(catalog, copy, tmp_path):
    with pytest.raises(UserError, match="another model or catalog"):
        embed(Encoder.from_backbone("random:resnet-mini", size=48), catalog, copy)
    with pytest.raises(UserError, match="another model or catalog"):
        embed(encoder(), make_catalog(tmp_path / "catalog", {"photo": 3}), copy)
    with pytest.raises(UserError, match="also holds Real World, sketch"):
        embed(encoder(), catalog, copy, domains=["photo"])
    Embeddings.open(copy)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds no embeddings"):
        embed(encoder(), catalog, tmp_path / "notes")


def test_the_encoder_of_a_run_is_not_overwritten(catalog, tmp_path):
    trained = Encoder.from_backbone("random:resnet-mini", size=48)
    trained.save(tmp_path / "run/encoder")
    write_json(tmp_path / "run/run.json", {})
    with pytest.raises(UserError, match="holds no embeddings"):
        embed(encoder(), catalog, tmp_path / "run")
    assert Encoder.load(tmp_path / "run/encoder").fingerprint == trained.fingerprint
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["encoder", "run.json"]


def test_one_job_at_a_time(catalog, copy):
    with FileLock(copy / ".lock"), pytest.raises(UserError, match="another process is embedding there"):
        embed(encoder(), catalog, copy)


def test_an_unknown_domain_names_those_there_are(catalog, tmp_path):
    with pytest.raises(UserError, match=r"no domain 'art'.*it has: Real World, photo, sketch"):
        embed(encoder(), catalog, tmp_path / "other", domains=["art"])


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 20})
    (domain,) = catalog.domains
    path = catalog.path / domain.parts[1].file
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[2] = images[2][:60]
    position = table.schema.get_field_index("image")
    pq.write_table(table.set_column(position, catalogs.SCHEMA.field("image"), [images]), path)
    with pytest.raises(JobError, match=r"cannot embed the image from photo/18.png: "):
        embed(encoder(), catalog, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
