"""Tars and Parquet files as sources, and all kinds beside each other."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pictures import contents, facts, listed, small_tree, tree
from ucdr_ray.errors import UserError


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


# Tars


def test_a_webdataset_tar_gives_samples_with_their_side_files(tmp_path):
    shard = write_tar(
        tmp_path / "photo-000001.tar",
        {
            "0001.jpg": b"one", "0001.cls": b"3", "0001.txt": b"caption",
            "0002.cls": b"4", "0002.png": b"two",
            "0003.jpg": b"three", "0003.json": json.dumps({"label": "dog", "domain": "sketch"}).encode(),
        },
    )  # fmt: skip
    items = listed(shard)
    assert [(i.domain, i.label) for i in items] == [("photo", "3"), ("photo", "4"), ("sketch", "dog")]
    assert contents(items) == [b"one", b"two", b"three"]
    assert {i.domain for i in listed(f"clipart={shard}")} == {"clipart"}


def test_a_packed_folder_tree_keeps_its_domains_and_classes(tmp_path):
    packed = write_tar(tmp_path / "pacs.tar", {"photo/dog/1.jpg": b"1", "sketch/cat/2.jpg": b"2"})
    assert facts(listed(packed)) == [
        ("photo", "pacs.tar/photo/dog/1.jpg", "dog"),
        ("sketch", "pacs.tar/sketch/cat/2.jpg", "cat"),
    ]


def test_names_in_a_tar_are_only_names_and_links_lead_nowhere(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../../up.png", "/abs/x/y.png"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    assert contents(listed(path)) == [b"abc", b"abc", b""]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("keep", [100, 5 * 512 + 100, 6 * 512])
def test_a_damaged_tar_is_an_error_not_a_short_listing(tmp_path, keep):
    path = write_tar(tmp_path / "x.tar", {f"{n}.png": bytes([65 + n]) * 600 for n in range(5)})
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(UserError, match="damaged, or not an uncompressed tar"):
        listed(path)
    path.write_bytes(whole[:1536] + b"garbage!" * 64 + whole[2048:])
    with pytest.raises(UserError, match="damaged.*after 0"):
        listed(path)


# Parquet


def write_parquet(path: Path, columns: dict[str, pa.Array], metadata: dict | None = None) -> Path:
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata({b"huggingface": json.dumps(metadata).encode()})
    pq.write_table(table, path, row_group_size=2)
    return path


def test_parquet_rows_are_items_across_row_groups(tmp_path):
    path = write_parquet(
        tmp_path / "photo.parquet",
        {"image": pa.array([bytes([n]) for n in range(5)]), "label": pa.array(["a", None, "b", "b", "a"])},
    )
    items = listed(path)
    assert [(i.domain, i.label) for i in items] == [("photo", x) for x in ["a", None, "b", "b", "a"]]
    assert contents(items) == [bytes([n]) for n in range(5)]
    assert contents(items[1::2]) == [b"\1", b"\3"]


def test_hugging_face_images_and_class_names_are_understood(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": b"1", "path": "x.png"}, {"bytes": None, "path": "y.png"}], kind)
    path = write_parquet(
        tmp_path / "train.parquet",
        {"image": images, "domain": pa.array(["photo", "sketch"]), "label": pa.array([1, 0])},
        {"info": {"features": {"label": {"names": ["cat", "dog"]}}}},
    )
    items = listed(path)
    assert facts(items) == [("photo", "train.parquet/x.png", "dog"), ("sketch", "train.parquet/y.png", "cat")]
    assert contents(items) == [b"1", b""]


def test_domains_may_be_numbers_and_hugging_face_classes(tmp_path):
    columns = {"image": pa.array([b"1", b"2", b"3"]), "domain": pa.array([1, 0, None])}
    assert [i.domain for i in listed(write_parquet(tmp_path / "plain.parquet", columns))] == [
        "1",
        "0",
        "plain",
    ]
    features = {"domain": {"names": ["photo", "sketch"]}, "label": {"names": ["cat"]}}
    path = write_parquet(tmp_path / "hub.parquet", columns, {"info": {"features": features}})
    assert [i.domain for i in listed(path)] == ["sketch", "photo", "hub"]


def test_a_parquet_without_images_names_its_columns(tmp_path):
    with pytest.raises(UserError, match="no column `image` of encoded bytes; its columns: id"):
        listed(write_parquet(tmp_path / "x.parquet", {"id": pa.array([1])}))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="unreadable Parquet"):
        listed(tmp_path / "y.parquet")


# All kinds


def test_what_is_no_source_says_so(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    for text, message in [
        (tmp_path / "x.zip", "not a folder, .txt list, .parquet or uncompressed .tar"),
        (tmp_path / "missing", "nothing at"),
        (f"a,b={tmp_path}", "can't name a domain"),
        (tmp_path / "empty", "no folders in it"),
    ]:
        with pytest.raises(UserError, match=message):
            listed(text)


def test_all_kinds_give_the_same_images(tmp_path):
    folder = small_tree(tmp_path / "tree")
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}
    lines = "".join(f"{name} {name.split('/')[1] == 'dog':d}\n" for name in files)
    tree(tmp_path, {"tree/all.txt": lines.encode()})
    columns = {
        "image": pa.array(list(files.values())),
        "domain": pa.array([name.split("/")[0] for name in files]),
        "label": pa.array([name.split("/")[1] for name in files]),
    }
    sources = [folder, folder / "all.txt", write_tar(tmp_path / "t.tar", files),
               write_parquet(tmp_path / "p.parquet", columns)]  # fmt: skip
    seen = {
        tuple(zip([(i.domain, i.label) for i in items], contents(items))) for items in map(listed, sources)
    }
    assert len(seen) == 1


@pytest.mark.parametrize(
    "side",
    ["[" * 100_000, '{"label": "\\ud800"}', '{"label": ' + "9" * 5000 + "}"],
    ids=["deep", "half", "long"],
)
def test_side_files_may_hold_anything(tmp_path, side):
    write_tar(tmp_path / "a.tar", {"x/1.png": b"1", "x/1.json": side.encode()})
    (item,) = listed(tmp_path / "a.tar")
    assert item.label is None or item.label.encode()


@pytest.mark.parametrize(
    "table",
    [
        pa.table([pa.array([b"x"]), pa.array([b"y"])], names=["image", "image"]),
        pa.table({"image": [{"bytes": 5, "path": "x"}]}),
        pa.table({"image": [7]}),
    ],
    ids=["twice", "struct of numbers", "number"],
)
def test_a_parquet_whose_images_are_no_bytes_is_refused(tmp_path, table):
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column `image` of encoded bytes"):
        listed(tmp_path / "a.parquet")
