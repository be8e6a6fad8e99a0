"""The folder of a catalog to be: held by one ingest at a time, and left as it was by a call that comes to nothing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ucdr_ray.catalog import WORK
from ucdr_ray.errors import UserError


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Create ``out`` with its work folder, and keep other ingests away.

    Raises:
        UserError: ``out`` holds something that is not a catalog, or another ingest writes there.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file")
    if (
        out.exists()
        and any(out.iterdir())
        and not any((out / name).exists() for name in ("manifest.json", WORK))
    ):
        raise UserError(f"--out {out}: holds something that is not a catalog")
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None
    lock = FileLock(out / WORK / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"--out {out}: another ingest is writing there") from None
    try:
        yield
    finally:
        lock.release()


def forget_plan(out: Path) -> None:
    """Remove what a call that got no further than its plan has made; finished parts stay."""
    if not (out / WORK / "receipts").exists():
        shutil.rmtree(out / WORK)
        if not any(out.iterdir()):
            out.rmdir()
