"""An ingest that is killed: its catalog is refused, and the same command ends in the same catalog."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pictures import catalog, encode, tree
from ucdr_ray.catalog import WORK, Catalog
from ucdr_ray.errors import UserError

DOMAINS, IMAGES = 12, 100


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Large pictures, so that the parts take a while; bytes after a JPEG's end make each its own content."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    jpeg = encode(Image.fromarray(pixels), "JPEG", quality=60)
    files = {f"d{d:02}/x/{n:03}.jpg": jpeg + bytes([d, n]) for d in range(DOMAINS) for n in range(IMAGES)}
    files["d00/x/000.jpg"] = b"a reject, so that slots move"
    return tree(tmp_path_factory.mktemp("kill") / "data", files)


def start(source: Path, out: Path) -> subprocess.Popen:
    code = "from ucdr_ray.cli import main; main()"
    command = [sys.executable, "-c", code, "ingest", str(source), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_killed_midway_and_run_again_it_ends_in_the_same_catalog(tmp_path, source, blow):
    out = tmp_path / "c"
    process = start(source, out)
    while not (finished := list((out / WORK / "receipts").rglob("*.json"))):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, blow)
    _, errors = process.communicate()
    assert process.returncode == (-9 if blow == signal.SIGKILL else 130)
    assert "Traceback" not in errors
    assert not (out / "manifest.json").exists()
    with pytest.raises(
        UserError, match="its ingest did not finish; run the same `ucdr ingest` command again"
    ):
        Catalog.open(out)

    kept = {path: path.stat().st_mtime_ns for path in finished}
    again = start(source, out)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "Traceback" not in errors
    made = Catalog.open(out)
    assert made.fingerprint == catalog(tmp_path / "alone", source).fingerprint
    assert made.manifest.rejects == 1
    parts = [
        out / "images" / path.relative_to(out / WORK / "receipts").with_suffix(".parquet") for path in kept
    ]
    assert all(part.stat().st_mtime_ns <= stamp for part, stamp in zip(parts, kept.values()))
