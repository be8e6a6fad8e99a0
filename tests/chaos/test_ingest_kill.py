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

DOMAINS, IMAGES = 24, 50


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Large pictures, so that parts take a while; bytes after a JPEG's end make each its own content."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    jpeg = encode(Image.fromarray(pixels), "JPEG", quality=60)
    files = {f"d{d:02}/x/{n:03}.jpg": jpeg + bytes([d, n]) for d in range(DOMAINS) for n in range(IMAGES)}
    files["d00/x/000.jpg"] = b"no image"
    return tree(tmp_path_factory.mktemp("kill") / "data", files)


def start(source: Path, out: Path) -> subprocess.Popen:
    code = "from ucdr_ray.cli import main; main()"
    command = [sys.executable, "-c", code, "ingest", str(source), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_midway(process: subprocess.Popen, out: Path, more_than: int, blow: signal.Signals) -> list[Path]:
    """End it once more parts than that are finished; gives the receipts there were."""
    while len(receipts := list((out / WORK / "receipts").rglob("*.json"))) <= more_than:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, blow)
    _, errors = process.communicate()
    assert process.returncode == (130 if blow == signal.SIGINT else -blow)
    assert "Traceback" not in errors
    assert not (out / "manifest.json").exists()
    with pytest.raises(
        UserError, match="its ingest did not finish; run the same `ucdr ingest` command again"
    ):
        Catalog.open(out)
    return receipts


def test_interrupted_then_killed_then_run_again_it_ends_in_the_same_catalog(tmp_path, source):
    out = tmp_path / "c"
    kept = stop_midway(start(source, out), out, 0, signal.SIGINT)
    files = [
        out / "images" / path.relative_to(out / WORK / "receipts").with_suffix(".parquet") for path in kept
    ]
    before = [path.stat().st_mtime_ns for path in files]
    stop_midway(start(source, out), out, len(kept), signal.SIGKILL)
    again = start(source, out)
    _, errors = again.communicate()
    assert again.returncode == 0 and "Traceback" not in errors, errors
    assert [path.stat().st_mtime_ns for path in files] == before
    made = Catalog.open(out)
    assert made.manifest.rejects == 1
    assert made.fingerprint == catalog(tmp_path / "alone", source).fingerprint
