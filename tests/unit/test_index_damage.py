"""Whatever is damaged, missing, forged or foreign in an index is refused, and named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from ucdr_ray.errors import UserError
from ucdr_ray.files import write_json
from ucdr_ray.index.search import Index
from ucdr_ray.index.versions import current
from ucdr_ray.models.encoder import Encoder


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


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"", b"\n\n"])
def test_another_end_of_line_is_damage_too(copy, end):
    path = copy / "CURRENT"
    path.write_bytes(path.read_bytes().removesuffix(b"\n") + end)
    with pytest.raises(UserError, match="CURRENT names no version"):
        Index.open(copy)


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
        (lambda m: m.update(schema_version=1), "schema_version"),
        (lambda m: m.update(format="other"), "format"),
        (lambda m: m.update(metric="l2"), "metric"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["shards"][1].update(first_slot=8), "starts at slot 8, not 0"),
        (lambda m: m["shards"].pop(), "totals"),
        (lambda m: m["totals"].update(rows=1), "totals"),
        (lambda m: m["shards"][0]["vectors"].update(file="../../photo-00000.faiss"), "not a path below"),
        (lambda m: m["shards"][0]["vectors"].update(file="encoder/x"), "outside shards/"),
        (lambda m: m["shards"][0].update(vectors=m["shards"][1]["vectors"]), "named twice"),
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
        shard = next(entry for entry in manifest["shards"] if entry["domain"] == "Real World")["vectors"]
        path = copy / "versions" / current(copy) / shard["file"]
        other = faiss.IndexFlatIP(8)
        other.add(np.eye(1, 8, dtype=np.float32))
        faiss.write_index(other, str(path))
        before = shard["bytes"]
        shard.update(
            bytes=path.stat().st_size, sha256=__import__("hashlib").sha256(path.read_bytes()).hexdigest()
        )
        manifest["totals"]["bytes"] += shard["bytes"] - before

    forge(copy, change)
    with pytest.raises(UserError, match="not a flat inner-product index of 1 × 256"):
        Index.open(copy).domain("Real World")


def test_a_foreign_encoder_is_refused(copy, tmp_path):
    Encoder.from_backbone("random:resnet-mini", size=32, seed=1).save(tmp_path / "other")
    folder = copy / "versions" / current(copy)
    (folder / "encoder" / "encoder.safetensors").write_bytes(
        (tmp_path / "other/encoder.safetensors").read_bytes()
    )
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
