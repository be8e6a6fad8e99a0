"""An embeddings folder is finished, undamaged and true to its manifest, or it isn't opened."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny import encoder, make_catalog, make_embeddings
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.embeddings_writer import check_folder, write_part
from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint, read_json, sha256_file, write_json
from ucdr_ray.parts_writer import finished_part


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Embeddings:
    root = tmp_path_factory.mktemp("world")
    return make_embeddings(
        root / "embeddings", make_catalog(root / "catalog", {"Real World": 20, "photo": 5})
    )


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made.path, tmp_path / "embeddings"))


def test_what_was_written_is_read(tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 40})
    opened = Embeddings.open(make_embeddings(tmp_path / "embeddings", catalog).path)
    ids = catalog.read("photo", ["id"])["id"].to_pylist()
    expected = np.stack([np.random.default_rng(int(id_, 16)).normal(size=256) for id_ in ids])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert opened.ids("photo").to_pylist() == ids
    assert np.array_equal(opened.vectors("photo"), expected.astype(np.float32))
    assert [(batch.first_slot, len(batch.ids), batch.vectors.shape) for batch in opened.batches("photo")] == [
        (0, 16, (16, 256)),
        (16, 16, (16, 256)),
        (32, 8, (8, 256)),
    ]
    assert (opened.dim, opened.model.fingerprint) == (256, encoder().fingerprint)
    schema = pq.read_schema(opened.path / opened.domain("photo").parts[0].file)
    assert schema.field("vector").type == pa.list_(pa.float32(), 256)


def test_an_unknown_domain_names_those_there_are(made):
    with pytest.raises(UserError, match=r"no domain 'sketch' in .* it has: Real World, photo"):
        made.vectors("sketch")


def listed_files(folder: Path) -> list[Path]:
    """All but the receipts, which serve the job alone."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.parent != folder / "vectors"
    ] + sorted((folder / "vectors").rglob("*.parquet"))


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 0.9, 1])
def test_a_flipped_bit_anywhere_is_refused_and_the_file_named(copy, place):
    assert len(listed_files(copy)) == 6
    for path in listed_files(copy):
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[min(int(len(whole) * place), len(whole) - 2)] ^= 4  # the last byte of JSON is only a newline
        path.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            Embeddings.open(copy)
        assert str(path) in str(error.value)
        path.write_bytes(whole)
    Embeddings.open(copy)


def test_missing_files_are_named(copy):
    for path in listed_files(copy):
        hidden = path.rename(copy / "hidden")
        with pytest.raises(UserError) as error:
            Embeddings.open(copy)
        assert str(path) in str(error.value)
        hidden.rename(path)


def forge(folder: Path, change: Callable[[dict], None]) -> None:
    """Rewrite the manifest with a checksum to match."""
    content = read_json(folder / "manifest.json", "manifest")
    change(content)
    content["checksum"] = fingerprint({name: value for name, value in content.items() if name != "checksum"})
    write_json(folder / "manifest.json", content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "version"),
        (lambda m: m.update(dim="256"), "dim"),
        (lambda m: m["domains"][0].update(rows=19), "has 20 rows in its parts, not 19"),
        (lambda m: m["domains"][0]["parts"][1].update(first_slot=15), "starts at slot 15, not 16"),
        (lambda m: m["domains"][0]["parts"][0].update(file="vectors/../part-00000.parquet"), "file"),
        (lambda m: m["encoder"][0].update(file="/etc/passwd"), "not a path below"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(copy, change, message):
    forge(copy, change)
    with pytest.raises(UserError, match=message):
        Embeddings.open(copy)


def rewrite_part(folder: Path, column: str, values: pa.Array) -> None:
    """Change a column of the small domain's only part, with checksums to match."""
    path = folder / "vectors/photo/part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)
    new = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    forge(folder, lambda manifest: manifest["domains"][1]["parts"][0].update(new))


def unit(vectors: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("slot", pa.array([0, 1, 2, 4, 3]), "does not hold slots 0 to 4"),
        ("domain", pa.array(["photo"] * 4 + ["sketch"]), "does not hold slots 0 to 4 of photo"),
        ("vector", unit(np.eye(5, 8)), "must be 256 float32"),
        ("vector", unit(np.full((5, 256), np.nan)), "row 0 is not a unit vector"),
        ("vector", unit(np.eye(5, 256) * 1.01), "row 0 is not a unit vector"),
        ("vector", unit(np.diag([1.0, 1, 0, 1, 1]) @ np.eye(5, 256)), "row 2 is not a unit vector"),
    ],
)
def test_a_part_that_is_not_what_its_manifest_says_is_refused(copy, column, values, message):
    rewrite_part(copy, column, values)
    opened = Embeddings.open(copy)
    with pytest.raises(UserError, match=message):
        opened.vectors("photo")


def test_a_receipt_speaks_for_one_part_only(tmp_path):
    file = "vectors/photo/part-00000.parquet"
    made = write_part(tmp_path, file, "photo", 0, ["a", "b"], np.eye(2, 4), {"model": "m", "part": "p"})
    assert finished_part(tmp_path, file, {"model": "m", "part": "p"}, "embeddings") == made
    assert finished_part(tmp_path, file, {"model": "m", "part": "other"}, "embeddings") is None
    assert finished_part(tmp_path, file, {"model": "other", "part": "p"}, "embeddings") is None
    other = tmp_path / "vectors/photo/part-00001.parquet"
    (tmp_path / file).with_suffix(".json").rename(other.with_suffix(".json"))
    assert (
        finished_part(tmp_path, "vectors/photo/part-00001.parquet", {"model": "m", "part": "p"}, "embeddings")
        is None
    )


def test_vectors_that_are_not_unit_are_not_written(tmp_path):
    with pytest.raises(UserError, match="row 1 is not a unit vector"):
        write_part(tmp_path, "vectors/a/part-00000.parquet", "a", 0, ["x", "y"], np.diag([1.0, np.nan]), {})
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    "there",
    [
        ["run.json", "config.yaml", "encoder/encoder.json", ".lock"],  # a run
        ["CURRENT", "versions/1-abc/manifest.json", ".lock"],  # an index
        [".lock", "config.yaml"],  # a run that came to nothing
        ["encoder/encoder.json", "thesis.txt"],
        [".hidden"],
    ],
)
def test_a_folder_of_something_else_is_refused_and_not_touched(tmp_path, there):
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="holds no embeddings"):
        check_folder(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_catalog_and_a_file_are_refused(made, tmp_path):
    with pytest.raises(UserError, match="holds no embeddings"):
        check_folder(Path(made.catalog.path))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        check_folder(tmp_path / "file")


def test_embeddings_and_what_a_killed_job_leaves_are_accepted(made, copy, tmp_path):
    check_folder(made.path)
    check_folder(tmp_path / "new")
    (copy / "manifest.json").unlink()
    (copy / ".encoder.abc.tmp").mkdir()
    (copy / ".lock").touch()
    check_folder(copy)
    shutil.rmtree(copy / "encoder")
    check_folder(copy)
