"""What exists is complete, whenever the writing process dies."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write, read_json, staged_folder

# Replaces a folder, and dies instead of its second rename, or before it clears the old content.
DIES = """
import os, shutil, sys
from pathlib import Path
from ucdr_ray.files import staged_folder

when, target = sys.argv[1], Path(sys.argv[2])
rename, done = os.rename, []
def counted(*names):
    if len(done) == 1 and when == "between":
        os._exit(9)
    done.append(rename(*names))
os.rename = counted
if when == "after":
    shutil.rmtree = lambda *arguments, **options: os._exit(9)
with staged_folder(target) as folder:
    (folder / "content").write_text("new")
"""


@pytest.fixture
def target(tmp_path) -> Path:
    with staged_folder(tmp_path / "a[b].c") as folder:
        (folder / "content").write_text("old")
    return tmp_path / "a[b].c"


def die(when: str, target: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, when, str(target)]).returncode == 9


def old(target: Path) -> list[Path]:
    return [path for path in target.parent.iterdir() if path.name.endswith(".old")]


def test_a_kill_between_the_renames_loses_nothing(target):
    die("between", target)
    assert not target.exists() and len(old(target)) == 1
    with suppress(RuntimeError), staged_folder(target) as folder:
        (folder / "content").write_text("half")
        raise RuntimeError
    assert (target / "content").read_text() == "old" and not old(target)


def test_a_call_after_a_kill_replaces_and_leaves_no_old_content(target):
    for when in ("between", "after"):
        die(when, target)
        assert len(old(target)) == 1
        with staged_folder(target) as folder:
            (folder / "content").write_text("newer")
        assert (target / "content").read_text() == "newer" and not old(target)


def test_names_that_only_look_alike_are_left_alone(tmp_path, target):
    others = [".a[b].c.old", f".{'a' * 32}.old", f".other.{'0' * 32}.old", ".a[b].c.notes.old"]
    for name in others:
        (tmp_path / name).mkdir()
    with staged_folder(target):
        pass
    assert {path.name for path in old(target)} == set(others)


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_look_into_a_folder_may_read_what_is_in_it(tmp_path, mask, expected):
    before = os.umask(mask)
    try:
        with staged_folder(tmp_path / "made") as staging:
            save_file({"x": torch.zeros(2)}, staging / "x.safetensors")
            (staging / "below").mkdir()
            (staging / "below" / "y.json").write_text("{}")
    finally:
        os.umask(before)
    for file in ("x.safetensors", "below/y.json"):
        assert (tmp_path / "made" / file).stat().st_mode & 0o777 == expected


def test_an_error_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        atomic_write(tmp_path / "folder", b"")
    assert caught.value.filename == str(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic_write(pipe, b"all of it")
        assert os.read(reader, 100) == b"all of it"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_bytes() == b"new"


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, "{", "\xff"])
def test_what_is_not_json_is_one_line(tmp_path, text):
    (tmp_path / "m.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="unreadable manifest at") as caught:
        read_json(tmp_path / "m.json", "manifest")
    assert "\n" not in str(caught.value)
