"""An embedding job that is killed is refused as it lies, and ends in the same vectors when it is run again."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.tiny import make_catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError


def start(catalog, out) -> subprocess.Popen:
    code = "from ucdr_ray.cli import main; main()"
    words = ["embed", "--backbone", "random:resnet-mini", "--size", "64", "--batch", "4"]
    call = [sys.executable, "-c", code, *words, "--catalog", str(catalog.path), "--out", str(out)]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    errors = process.communicate()[1]
    assert process.returncode == 0 and "Traceback" not in errors, errors


@pytest.mark.timeout(600)
def test_killed_and_run_again_it_gives_the_same_vectors(tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 900, "sketch": 700}, rows_per_part=8)
    out, alone = tmp_path / "embeddings", tmp_path / "alone"
    process = start(catalog, out)
    while not list((out / "vectors").rglob("*.parquet")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with pytest.raises(UserError):
        Embeddings.open(out)
    finish(start(catalog, out))
    finish(start(catalog, alone))
    left, right = Embeddings.open(out), Embeddings.open(alone)
    for domain in ("photo", "sketch"):
        assert left.ids(domain) == right.ids(domain)
        assert abs(left.vectors(domain) - right.vectors(domain)).max() < 1e-6
