"""Versions of an index: immutable folders, and the small file ``CURRENT`` that names the one in use.

```
INDEX/
  CURRENT                    name of a version and a newline; replaced atomically
  versions/<n>-<hash>/       manifest.json, shards/, encoder/; <hash>: 12 hex of the manifest's SHA-256
```
"""

import re
import shutil
from pathlib import Path

from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write, sha256_file
from ucdr_ray.index.manifest import Manifest
from ucdr_ray.records import read_record

_LONGEST = 64  # bytes of ``CURRENT``: a name that is longer names nothing
_NAME = re.compile(r"(\d+)-([0-9a-f]{12})")


def version_folder(index: Path, name: str) -> Path:
    """Where a version lies."""
    return index / "versions" / name


def version_name(number: int, manifest: Path) -> str:
    """The name a finished manifest gives its version."""
    return f"{number}-{sha256_file(manifest)[:12]}"


def versions(index: Path) -> list[str]:
    """Names of the complete versions, oldest first."""
    folder = index / "versions"
    names = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(names, key=number_of)


def number_of(name: str) -> int:
    """The running number in a version's name."""
    return int(name.split("-")[0])


def current(index: Path) -> str:
    """The name of the version in use.

    Raises:
        UserError: there is none, or ``CURRENT`` is damaged.
    """
    path = index / "CURRENT"
    try:
        with path.open("rb") as file:  # as text, other ends of lines would pass for this one
            text = file.read(_LONGEST).decode("ascii")
    except FileNotFoundError:
        raise UserError(f"no index at {index}: {path} is missing (make one with: ucdr index build)") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"damaged index: cannot read {path}") from None
    name = text.removesuffix("\n")
    if not text.endswith("\n") or not _NAME.fullmatch(name) or not version_folder(index, name).is_dir():
        raise UserError(f"damaged index: {path} names no version in {index / 'versions'}")
    return name


def set_current(index: Path, name: str) -> None:
    """Put a complete version in use."""
    atomic_write(index / "CURRENT", f"{name}\n".encode())


def read_manifest(index: Path, name: str) -> Manifest:
    """A version's manifest, held against the hash in the version's name.

    Raises:
        UserError: missing, damaged, or of another format.
    """
    path = version_folder(index, name) / "manifest.json"
    manifest = read_record(Manifest, path, "index manifest")
    if version_name(number_of(name), path) != name:
        raise UserError(f"damaged index: {path} does not match the hash in its version's name")
    return manifest


def clear_unfinished(index: Path) -> None:
    """Remove what killed writers left; only under the index's lock."""
    for pattern in (".build-*", ".*.tmp"):
        for path in (index / "versions").glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in index.glob(".CURRENT.*.tmp"):
        path.unlink()
