"""An index version is complete and undamaged, or it isn't opened; a new one becomes current only when it is right."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest
from filelock import FileLock

from tests.tiny import encoder, make_catalog, make_embeddings
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.files import write_json
from ucdr_ray.images import decode
from ucdr_ray.index.build import build
from ucdr_ray.index.manifest import Manifest
from ucdr_ray.index.search import Index
from ucdr_ray.index.versions import current, versions
from ucdr_ray.models.encoder import Encoder

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


def naive(embeddings: Embeddings, domains: list[str], query: np.ndarray, k: int) -> list[tuple]:
    rows = []
    for domain in domains:
        vectors = embeddings.vectors(domain).astype(np.float64)
        scores = (vectors * query.astype(np.float64)).sum(axis=1).astype(np.float32)
        rows += [(-float(s), domain, i, slot) for slot, (s, i) in enumerate(zip(scores, embeddings.ids(domain)))]
    return sorted(rows)[:k]


def test_search_over_domains_and_shards_equals_naive_search(world):
    index = Index.open(world.index)
    assert len(index.manifest.shards) == 1 + 5 + 3
    queries = world.embeddings.vectors("photo")
    for domains in (["sketch"], ["photo", "Real World"], list(COUNTS)):
        for query, answer in zip(queries, index.search(queries, domains, k=12), strict=True):
            found = [(-hit.score, hit.domain, hit.id, hit.slot) for hit in answer.hits]
            assert found == naive(world.embeddings, domains, query, 12)
            for name in domains:
                hits = [(-hit.score, name, hit.id, hit.slot) for hit in answer.by_domain[name]]
                assert hits == naive(world.embeddings, [name], query, 12)


def test_an_answer_says_what_it_rests_on(world):
    index = Index.open(world.index)
    (answer,) = index.search(world.embeddings.vectors("photo")[:1], ["photo", "sketch"], k=3)
    assert answer.index_version == current(world.index)
    assert answer.model == world.embeddings.model
    assert (answer.shards_answered, answer.shards_total) == (8, 8)
    assert answer.notes == []
    assert [hit.source for hit in answer.hits] == [f"{hit.domain}/{hit.slot}.png" for hit in answer.hits]


def test_k_above_the_domain_returns_all_and_says_so(world):
    index = Index.open(world.index)
    (answer,) = index.search(world.embeddings.vectors("photo")[:1], ["Real World", "sketch"], k=1000)
    assert len(answer.hits) == 24
    assert answer.notes == [
        "Real World has only 1 images: all of them are in the answer",
        "sketch has only 23 images: all of them are in the answer",
    ]


def test_wrong_questions_are_refused(world):
    index = Index.open(world.index)
    query = world.embeddings.vectors("photo")[:1]
    with pytest.raises(UserError, match=r"no domain 'painting'.*has: Real World, photo, sketch"):
        index.search(query, ["painting"])
    with pytest.raises(UserError, match="k = 0: at least 1"):
        index.search(query, k=0)
    with pytest.raises(UserError, match=r"\(number of queries, 256\) is allowed"):
        index.search(query[:, :-1])


def test_thumbnails_are_small_images_of_their_row(world, tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 300}, rows_per_part=290, side=200)
    embeddings = make_embeddings(tmp_path / "embeddings", catalog)
    index = build(embeddings, catalog, tmp_path / "index")
    images = catalog.read("photo", ["image"])["image"]
    for slot in (0, 255, 256, 289, 290, 299):
        thumbnail = decode(index.domain("photo").metadata.thumbnail(slot))
        assert thumbnail.size == (128, 128)
        original = decode(images[slot].as_py()).resize((128, 128))
        assert np.abs(np.asarray(thumbnail, float) - np.asarray(original, float)).mean() < 4
    small = Index.open(world.index).domain("sketch").metadata.thumbnail(22)
    assert small == world.catalog.read("sketch", ["image"])["image"][22].as_py()


def test_the_index_carries_the_encoder_of_its_vectors(world):
    assert Index.open(world.index).encoder.fingerprint == encoder().fingerprint


def files_of(index: Path) -> list[Path]:
    return sorted(path for path in index.rglob("*") if path.is_file() and path.name != ".lock")


def flip(data: bytearray, place: int) -> bytearray:
    data[place] ^= 1 << (place % 8)
    return data


DAMAGES: dict[str, Callable[[bytearray], bytearray]] = {
    "first byte": lambda data: flip(data, 0),
    "middle byte": lambda data: flip(data, len(data) // 2),
    "last byte": lambda data: flip(data, len(data) - 1),
    "cut": lambda data: data[: len(data) // 2],
    "cut by one": lambda data: data[:-1],
    "empty": lambda data: data[:0],
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_refused_and_the_file_named(copy, damage):
    for path in files_of(copy):
        whole = path.read_bytes()
        path.write_bytes(DAMAGES[damage](bytearray(whole)))
        with pytest.raises(UserError) as error:
            Index.open(copy)
        assert str(path) in str(error.value)
        path.write_bytes(whole)
    Index.open(copy)


def test_any_bit_of_the_small_files_counts(copy):
    """CURRENT and the manifest have no checksum beside them: their hash is in the version's name."""
    generator = np.random.default_rng(0)
    manifest = copy / "versions" / current(copy) / "manifest.json"
    for path, places in ((copy / "CURRENT", None), (manifest, 200)):
        whole = path.read_bytes()
        for place in range(len(whole)) if places is None else generator.integers(0, len(whole), places):
            for bit in range(8) if places is None else generator.integers(0, 8, 1):
                damaged = bytearray(whole)
                damaged[place] ^= 1 << int(bit)
                path.write_bytes(damaged)
                with pytest.raises(UserError, match=path.name):
                    Index.open(copy)
        path.write_bytes(whole)


def test_a_missing_file_is_named(copy):
    for path in files_of(copy):
        hidden = path.rename(copy / "hidden")
        with pytest.raises(UserError) as error:
            Index.open(copy)
        assert str(path) in str(error.value)
        hidden.rename(path)


def forge(index: Path, change: Callable[[dict], None]) -> None:
    """Rewrite the current manifest and rename its version to match, as someone with a hex editor and patience would."""
    from ucdr_ray.files import read_json
    from ucdr_ray.index.versions import set_current, version_name

    folder = index / "versions" / current(index)
    content = read_json(folder / "manifest.json", "manifest")
    change(content)
    write_json(folder / "manifest.json", content)
    name = version_name(7, folder / "manifest.json")
    folder.rename(folder.with_name(name))
    set_current(index, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema_version"),
        (lambda m: m.update(format="other"), "format"),
        (lambda m: m.update(metric="l2"), "metric"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["shards"][1].update(first_slot=8), "starts at slot 8, not 0"),
        (lambda m: m["shards"].pop(), "vectors and"),
        (lambda m: m["totals"].update(rows=1), "totals"),
        (lambda m: m["shards"][0].update(file="../../photo-00000.faiss"), "file"),
        (lambda m: m["encoder"][0].update(file="../encoder.json"), "not a path below"),
        (lambda m: m["model"].update(fingerprint="x"), "model.fingerprint"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(copy, change, message):
    forge(copy, change)
    with pytest.raises(UserError, match=message):
        Index.open(copy)


def test_a_shard_of_another_dimension_is_refused(copy):
    """Checksums alone would let it through: the manifest was made to match."""

    def change(manifest: dict) -> None:
        shard = next(entry for entry in manifest["shards"] if entry["domain"] == "Real World")
        path = copy / "versions" / current(copy) / shard["file"]
        other = faiss.IndexFlatIP(8)
        other.add(np.eye(1, 8, dtype=np.float32))
        faiss.write_index(other, str(path))
        before = shard["bytes"]
        shard.update(bytes=path.stat().st_size, sha256=__import__("hashlib").sha256(path.read_bytes()).hexdigest())
        manifest["totals"]["bytes"] += shard["bytes"] - before

    forge(copy, change)
    with pytest.raises(UserError, match="not a flat inner-product index of 1 × 256"):
        Index.open(copy).domain("Real World")


def test_a_foreign_encoder_is_refused(copy, tmp_path):
    Encoder.from_backbone("random:resnet-mini", size=32, seed=1).save(tmp_path / "other")
    folder = copy / "versions" / current(copy)
    (folder / "encoder" / "encoder.safetensors").write_bytes((tmp_path / "other/encoder.safetensors").read_bytes())
    with pytest.raises(UserError, match="encoder.safetensors"):
        Index.open(copy)

    shutil.copy(tmp_path / "other/encoder.json", folder / "encoder/encoder.json")
    names = ["encoder/encoder.json", "encoder/encoder.safetensors"]
    from ucdr_ray.records import FileRecord

    def change(manifest: dict) -> None:
        before = sum(record["bytes"] for record in manifest["encoder"])
        manifest["encoder"] = [FileRecord.of(folder, name).model_dump() for name in names]
        manifest["totals"]["bytes"] += sum(record["bytes"] for record in manifest["encoder"]) - before

    forge(copy, change)
    index = Index.open(copy)
    with pytest.raises(UserError, match="foreign encoder"):
        _ = index.encoder


def test_a_second_build_becomes_current_and_keeps_the_first(world, copy):
    first = current(copy)
    before = Index.open(copy)
    second = build(world.embeddings, world.catalog, copy).version
    assert (first.split("-")[0], second.split("-")[0]) == ("1", "2")
    assert versions(copy) == [first, second]
    assert current(copy) == second == Index.open(copy).version
    assert Index.open(copy, first).version == first
    query = world.embeddings.vectors("sketch")
    assert [a.hits for a in before.search(query)] == [a.hits for a in Index.open(copy).search(query)]


def test_only_one_build_at_a_time(world, copy):
    with FileLock(copy / ".lock"), pytest.raises(JobError, match="another process is building"):
        build(world.embeddings, world.catalog, copy)


def test_what_does_not_belong_together_is_refused(world, tmp_path):
    other = make_catalog(tmp_path / "catalog", {"photo": 3})
    with pytest.raises(UserError, match="not the one that was embedded"):
        build(world.embeddings, other, tmp_path / "index")
    folder = Path(shutil.copytree(world.embeddings.path, tmp_path / "embeddings"))
    Encoder.from_backbone("random:resnet-mini", size=48).save(folder / "encoder")
    with pytest.raises(UserError, match="foreign encoder"):
        build(Embeddings.open(folder, verify=False), world.catalog, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_version_that_does_not_find_itself_is_not_published(world, copy, monkeypatch):
    """The fault is in the writing of shards: rows in the wrong order, under right checksums."""
    import ucdr_ray.index.build as module

    write = module.write_exact
    monkeypatch.setattr(module, "write_exact", lambda path, dim, rows: write(path, dim, [r[::-1] for r in rows]))
    before = current(copy)
    with pytest.raises(JobError, match="does not find slot"):
        build(world.embeddings, world.catalog, copy)
    assert current(copy) == before and versions(copy) == [before]
    Index.open(copy)
    assert not list((copy / "versions").glob(".*"))


def test_no_index_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no index at .*CURRENT is missing"):
        Index.open(tmp_path)


def test_labels_are_not_in_the_index(world):
    import pyarrow.parquet as pq

    for path in (world.index / "versions").rglob("*.parquet"):
        assert pq.read_schema(path).names == ["id", "domain", "slot", "source", "thumbnail"]


def test_manifest_is_described_by_its_schema():
    assert set(Manifest.model_json_schema()["required"]) >= {"created", "model", "dim", "shards", "metadata", "encoder"}
