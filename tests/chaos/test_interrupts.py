"""Ctrl-C in the middle of a verb: one line, exit code 130, and nothing half-written that a later call would trust."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.cli import run as ucdr
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.index.search import Index
from ucdr_ray.index.versions import current


def interrupt(words: list[str], log: Path, underway: Callable[[], bool]) -> None:
    """Start a verb, as a shell does: in a group of its own, all of which gets the signal once work is underway."""
    call = [sys.executable, "-c", "from ucdr_ray.cli import main; main()", *words]
    with log.open("w") as file:
        process = subprocess.Popen(
            call, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        )
    while not underway():
        assert process.poll() is None, log.read_text()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate()[0], log.read_text()
    assert (process.returncode, out, said.splitlines()[-1]) == (130, "", "interrupted"), said
    assert "Traceback" not in said and "error" not in said.lower(), said


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    counts = {"photo": 400, "sketch": 300}
    return make_catalog(tmp_path_factory.mktemp("interrupts") / "catalog", counts, rows_per_part=10)


@pytest.mark.timeout(600)
def test_embedding_is_interrupted(tmp_path, catalog):
    out = tmp_path / "embeddings"
    words = ["--backbone", "random:resnet-mini", "--size", "64", "--batch", "4"]
    call = ["embed", *words, "--catalog", str(catalog.path), "--out", str(out)]
    interrupt(call, tmp_path / "log", lambda: any((out / "vectors").rglob("*.parquet")))
    with pytest.raises(UserError):
        Embeddings.open(out)


def test_building_an_index_is_interrupted(tmp_path, catalog):
    embeddings, out = make_embeddings(tmp_path / "embeddings", catalog), tmp_path / "index"
    call = ["index", "build", str(embeddings.path), "--catalog", str(catalog.path), "--out", str(out)]
    interrupt(call, tmp_path / "log", lambda: any((out / "versions").glob(".*")))
    with pytest.raises(UserError):
        Index.open(out)
    assert ucdr(call) == 0
    assert Index.open(out).version == current(out)
    assert not list((out / "versions").glob(".*")), "what the interrupted build left is cleared away"


def test_an_evaluation_is_interrupted(tmp_path):
    labelled, file = tmp_path / "catalog", tmp_path / "result.json"
    assert ucdr(["draw", "--out", str(tmp_path / "drawings"), "--per-class", "4", "--size", "32"]) == 0
    assert ucdr(["ingest", str(tmp_path / "drawings"), "--out", str(labelled)]) == 0
    file.write_text("earlier")
    words = ["--backbone", "random:resnet50", "--size", "128", "--json", str(file)]
    log = tmp_path / "log"
    interrupt(
        ["evaluate", "--catalog", str(labelled), *words],
        log,
        lambda: log.exists() and "embed" in log.read_text(),
    )
    assert file.read_text() == "earlier"
