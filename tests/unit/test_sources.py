"""Every kind of source gives the same items; nothing outside its root is opened."""

import contextlib
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pictures import noise, small_tree, tree
from ucdr_ray.errors import UserError
from ucdr_ray.images import Reject
from ucdr_ray.sources import list_items, parse_source
from ucdr_ray.sources.item import Item
from ucdr_ray.sources.listfile import parse_line
from ucdr_ray.sources.read import read_items


def listed(*sources: str | Path, base: int | None = None, root: Path | None = None) -> list[Item]:
    return list(list_items([parse_source(str(source), root) for source in sources], base))


def facts(items: list[Item]) -> list[tuple[str, str, str | None]]:
    return [(item.domain, item.source, item.label) for item in items]


def contents(items: list[Item]) -> list[bytes | str]:
    return [data.reason if isinstance(data, Reject) else data for _, data in read_items(items, 10**6)]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


# Folders


def test_a_folder_tree_gives_domains_classes_and_files_in_order(tmp_path):
    tree(tmp_path, {"b/dog/2.png": b"2", "b/dog/1.png": b"1", "a/loose.png": b"3", "labels.csv": b"no image"})
    items = listed(tmp_path)
    assert facts(items) == [
        ("a", "a/loose.png", None),
        ("b", "b/dog/1.png", "dog"),
        ("b", "b/dog/2.png", "dog"),
    ]
    assert contents(items) == [b"3", b"1", b"2"]


def test_the_class_is_the_folder_that_holds_the_file(tmp_path):
    tree(tmp_path, {"amazon/images/back_pack/frame_0001.jpg": b"x"})
    assert listed(tmp_path)[0].label == "back_pack"


def test_a_named_folder_is_one_domain(tmp_path):
    tree(tmp_path, {"dog/1.png": b"1", "2.png": b"2"})
    assert facts(listed(f"Real World={tmp_path}")) == [
        ("Real World", "2.png", None),
        ("Real World", "dog/1.png", "dog"),
    ]


def test_hidden_files_are_left_out_and_names_need_not_be_text(tmp_path):
    tree(tmp_path, {"a/.DS_Store": b"x", "a/.cache/1.png": b"x"})
    odd = os.path.join(os.fsencode(tmp_path), b"a", b"caf\xe9.png")
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    items = listed(tmp_path)
    assert facts(items) == [("a", "a/caf\\xe9.png", None)]
    assert contents(items) == [b"odd"]


def test_links_out_of_the_root_are_rejected_and_links_inside_are_read(tmp_path):
    tree(tmp_path, {"secret.txt": b"secret", "elsewhere/1.png": b"secret", "data/a/real.png": b"fine"})
    (tmp_path / "data/a/inside.png").symlink_to("real.png")
    (tmp_path / "data/a/outside.png").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "data/a/up.png").symlink_to("../../secret.txt")
    (tmp_path / "data/a/zfolder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a/loop.png").symlink_to("loop.png")
    items = listed(tmp_path / "data")
    outside = "leads outside the source's root"
    assert dict(zip([item.source for item in items], contents(items))) == {
        "a/inside.png": b"fine",
        "a/loop.png": "unreadable file: Too many levels of symbolic links",
        "a/outside.png": outside,
        "a/real.png": b"fine",
        "a/up.png": outside,
        "a/zfolder": outside,
        "b": outside,
    }


def test_what_is_no_readable_file_is_a_reject_and_never_waits(tmp_path):
    tree(tmp_path, {"a/gone.png": b"x", "a/large.png": b"x" * 2000, "a/changed.png": b"x"})
    os.mkfifo(tmp_path / "a/pipe.png")
    items = listed(tmp_path)
    (tmp_path / "a/gone.png").unlink()
    (tmp_path / "a/changed.png").unlink()
    (tmp_path / "a/changed.png").mkdir()
    reasons = {i.source: r.reason for i, r in read_items(items, 1000) if isinstance(r, Reject)}
    assert reasons == {
        "a/changed.png": "not a regular file",
        "a/gone.png": "unreadable file: No such file or directory",
        "a/large.png": "2000 bytes: more than any image within the pixel limit needs",
        "a/pipe.png": "not a regular file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_reject(tmp_path):
    tree(tmp_path, {"a/1.png": b"x"})
    (tmp_path / "a/1.png").chmod(0)
    assert contents(listed(tmp_path)) == ["unreadable file: Permission denied"]


# Lists


def test_lists_take_blanks_in_names_and_name_labels_by_folder(tmp_path):
    tree(
        tmp_path, {"Real World/Alarm Clock/1.jpg": b"1", "Art/Alarm Clock/2.jpg": b"2", "Art/Bed/3.jpg": b"3"}
    )
    tree(tmp_path, {"real.txt": b"\xef\xbb\xbfReal World/Alarm Clock/1.jpg 1\r\n\r\n"})
    tree(tmp_path, {"art.txt": b"./Art/Alarm Clock/2.jpg\t0\nArt/Bed/3.jpg 1\n"})
    items = listed(tmp_path / "real.txt", tmp_path / "art.txt")
    assert facts(items) == [
        ("Real World", "Real World/Alarm Clock/1.jpg", "Alarm Clock"),
        ("Art", "Art/Alarm Clock/2.jpg", "Alarm Clock"),
        ("Art", "Art/Bed/3.jpg", "Bed"),
    ]
    assert contents(items) == [b"1", b"2", b"3"]


def test_numbers_are_counted_from_zero_whatever_the_base(tmp_path):
    tree(tmp_path, {f"{n}.jpg": b"x" for n in range(4)})
    tree(tmp_path, {"photo.txt": b"0.jpg 1\n1.jpg 3\n", "sketch.txt": b"2.jpg 2\n3.jpg 3\n"})
    photo, sketch = tmp_path / "photo.txt", tmp_path / "sketch.txt"
    assert [(i.domain, i.label) for i in listed(photo, sketch)] == [
        ("photo", "0"), ("photo", "2"), ("sketch", "1"), ("sketch", "2"),
    ]  # fmt: skip
    assert [i.label for i in listed(sketch, base=0)] == ["2", "3"]
    with pytest.raises(UserError, match="has label 1, below --label-base 2"):
        listed(photo, base=2)


def test_lists_that_count_from_different_numbers_are_an_error(tmp_path):
    tree(tmp_path, {f"{n}.jpg": b"x" for n in range(4)})
    tree(tmp_path, {"photo.txt": b"0.jpg 0\n1.jpg 1\n", "sketch.txt": b"2.jpg 1\n3.jpg 2\n"})
    with pytest.raises(UserError, match=r"photo.txt 0 to 1, sketch.txt 1 to 2"):
        listed(tmp_path / "photo.txt", tmp_path / "sketch.txt")
    with pytest.raises(UserError, match="labels start at 7"):
        listed(*tree(tmp_path, {"far.txt": b"0.jpg 7\n"}).glob("far.txt"))


def test_a_list_reads_below_its_root_alone(tmp_path):
    tree(tmp_path, {"secret.jpg": b"secret", "images/a/dog/1.jpg": b"1", "lists/all.txt": b"a/dog/1.jpg 0\n"})
    root = tmp_path / "images"
    with open(tmp_path / "lists/all.txt", "a") as file:
        file.write(f"{root}/a/dog/1.jpg 0\na/dog/../../../secret.jpg 0\n{tmp_path}/secret.jpg 0\n")
    items = listed(tmp_path / "lists/all.txt", root=root)
    outside = "leads outside the source's root"
    assert contents(items) == [b"1", b"1", outside, outside]
    with pytest.raises(UserError, match="its first paths don't exist, such as .*--root"):
        listed(*tree(tmp_path, {"lists/a.txt": b"a/dog/1.jpg 0\n"}).glob("lists/a.txt"))


def test_an_empty_list_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        listed(*tree(tmp_path, {"none.txt": b"\n \n"}).glob("none.txt"))


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


@given(names, st.integers(0, 10**6), st.sampled_from([" ", "\t", "  "]))
def test_a_written_line_is_read_back(name, label, gap):
    assert parse_line(f"{name.strip()}.jpg{gap}{label}\n") == (f"{name.strip()}.jpg", label)
    assert parse_line(f"{name.strip()}.jpg\n") == (f"{name.strip()}.jpg", None)


@given(st.text())
def test_any_line_is_a_path_or_nothing(line):
    parsed = parse_line(line)
    assert parsed is None if not line.strip() else parsed is not None and parsed[0]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_any_bytes_are_a_list_or_a_clear_error(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("list")
    (folder / "l.txt").write_bytes(b"\n".join(lines) + b"\nl.txt 0\n")
    with contextlib.suppress(UserError):
        assert len(contents(listed(folder / "l.txt"))) >= 1


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
    assert noise(0) in dict.fromkeys(files.values())
