"""Files are held against their checksums; large ones are read again only if they may have changed."""

import os

import pytest

from ucdr_ray import records
from ucdr_ray.errors import UserError
from ucdr_ray.records import FileRecord


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read, where every file counts as large."""
    names, whole = [], records.sha256_file
    monkeypatch.setattr(records, "LARGE", 0)
    monkeypatch.setattr(records, "_right", {})
    monkeypatch.setattr(records, "sha256_file", lambda path: names.append(path.name) or whole(path))
    return names


def test_a_large_file_is_read_once_by_whatever_name(tmp_path, read):
    (tmp_path / "a").write_bytes(b"content")
    record = FileRecord.of(tmp_path, "a")
    os.link(tmp_path / "a", tmp_path / "b")
    record.check(tmp_path, "index")
    read.clear()
    record.model_copy(update={"file": "b"}).check(tmp_path, "index")
    assert read == []


@pytest.mark.parametrize("change", ["other bytes", "another file", "shorter"])
def test_a_large_file_that_changed_is_refused(tmp_path, read, change):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    record = FileRecord.of(tmp_path, "a")
    record.check(tmp_path, "index")
    if change == "another file":
        path.unlink()
    path.write_bytes(b"cont" if change == "shorter" else b"CONTENT")
    if change != "shorter":
        later = path.stat().st_mtime_ns + 10**9  # a clock as coarse as some are
        os.utime(path, ns=(later, later))
    with pytest.raises(UserError, match="a does not match its checksum"):
        record.check(tmp_path, "index")


def test_what_was_wrong_is_read_again(tmp_path, read):
    """A file may be mended without another size or time."""
    path = tmp_path / "a"
    path.write_bytes(b"content")
    record, time = FileRecord.of(tmp_path, "a"), path.stat().st_mtime_ns
    path.write_bytes(b"CONTENT")
    with pytest.raises(UserError):
        record.check(tmp_path, "index")
    path.write_bytes(b"content")
    os.utime(path, ns=(time, time))
    record.check(tmp_path, "index")


def test_a_small_file_is_always_read(tmp_path, read, monkeypatch):
    monkeypatch.setattr(records, "LARGE", 100)
    (tmp_path / "a").write_bytes(b"content")
    FileRecord.of(tmp_path, "a").check(tmp_path, "index")
    assert read == ["a", "a"]
