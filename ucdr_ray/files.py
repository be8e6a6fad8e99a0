"""Writing so that what exists is complete: temp name, fsync, rename."""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ucdr_ray.errors import UserError


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_TEMPORARY = re.compile(r"\..+\.(tmp|old)")


def is_temporary(name: str) -> bool:
    """Whether a file or folder called ``name`` is what a crash left of `atomic_write` or `staged_folder`."""
    return _TEMPORARY.fullmatch(name) is not None


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its old content or all of the new, even after a crash.

    A link's target is replaced, not the link. A device or a pipe is written to as it is: no renaming over those.

    Raises:
        OSError: it can't be written; names ``path``.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        settle(temporary, path)
    except OSError as error:  # of the temporary name, which nobody knows
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def settle(draft: Path, path: Path) -> None:
    """Move the finished file ``draft`` to ``path``, in the same file system: there, it is whole even after a crash."""
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    _sync_folder(path.parent)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that becomes ``target`` when the block ends, and vanishes if it raises.

    An existing ``target`` is replaced by two renames. A crash leaves a hidden ``.NAME.*.tmp`` folder, which nothing
    reads; between the renames, also no ``target`` but its old content in ``.NAME.*.old``, which the next call for the
    same ``target`` puts back first. One process at a time may call it for the same ``target``.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _restore(target)
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    staging.mkdir()
    try:
        yield staging
        # Safetensors writes for the owner alone; whoever may look into the folder may read what is in it.
        mode = staging.stat().st_mode & 0o666
        for file in staging.rglob("*"):
            if file.is_file():
                file.chmod(mode)
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if target.exists():
            old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
            os.rename(target, old)
            os.rename(staging, target)
            _sync_folder(target.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(staging, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _restore(target: Path) -> None:
    """Undo what a crash between the two renames of ``staged_folder`` left, and clear what one after them did."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.old")
    for old in [entry for entry in target.parent.iterdir() if name.fullmatch(entry.name)]:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, target)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(option: str, path: Path, endings: tuple[str, ...] = ()) -> None:
    """See that a file can be written, before the work whose result it is to hold.

    Args:
        endings: allowed ones, such as ".png"; any without them.

    Raises:
        UserError: it is a folder, below something that is none, not permitted, or of another ending.
    """
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"{option} {path}: allowed: a name that ends in {' or '.join(endings)}")
    if not path.name or path.is_dir():
        raise UserError(f"{option} {str(path)!r}: is a folder; allowed: a file")
    above = next(folder for folder in Path(os.path.abspath(path)).parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{option} {path}: {above} is no folder that may be written to")


def fingerprint(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON with a final newline."""
    atomic_write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> Any:
    """Read JSON; ``what`` names the thing in the error ("catalog manifest").

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}") from None
    except (
        OSError,
        ValueError,
        RecursionError,
    ) as error:  # not text, not JSON, a number or a nesting without end
        raise UserError(f"unreadable {what} at {path}: {error}") from None
