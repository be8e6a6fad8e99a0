"""Folder trees and lists as sources; nothing outside their roots is opened."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pictures import contents, facts, listed, tree
from ucdr_ray.errors import UserError
from ucdr_ray.images import Reject
from ucdr_ray.sources.listfile import parse_line
from ucdr_ray.sources.read import read_items

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
