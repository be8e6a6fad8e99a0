"""Builds that are killed at any moment leave the index that was there, whole; a later build publishes the next."""

import os
import random
import signal
import subprocess
import sys
import time

from tests.tiny import make_catalog, make_embeddings
from ucdr_ray.index.build import build
from ucdr_ray.index.search import Index
from ucdr_ray.index.versions import current, versions

KILLS = 6

# The modules are loaded first, so that the kill falls into the building.
BUILD = """
import sys
from pathlib import Path
from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.index.build import build
embeddings, catalog = Embeddings.open(Path(sys.argv[1])), Catalog.open(Path(sys.argv[2]))
print("go", flush=True)
build(embeddings, catalog, Path(sys.argv[3]), rows_per_shard=9)
print("done", flush=True)
"""


def test_killed_builds_leave_the_current_version_whole(tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 300, "sketch": 200})
    embeddings = make_embeddings(tmp_path / "embeddings", catalog)
    out = tmp_path / "index"
    started = time.monotonic()
    build(embeddings, catalog, out, rows_per_shard=9)
    once = time.monotonic() - started
    query = embeddings.vectors("sketch")[:5]
    answer = [found.hits for found in Index.open(out).search(query)]
    chance = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        call = [sys.executable, "-c", BUILD, str(embeddings.path), str(catalog.path), str(out)]
        process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "go\n"
        time.sleep(chance.uniform(0, once))
        os.kill(process.pid, signal.SIGKILL)
        finished = "done" in process.communicate()[0]
        killed += not finished
        index = Index.open(out)  # verifies every checksum
        assert index.version == current(out)
        assert [found.hits for found in index.search(query)] == answer
    assert killed > 0
    last = build(embeddings, catalog, out, rows_per_shard=9)
    assert last.version == versions(out)[-1] == current(out)
    assert not list((out / "versions").glob(".*")), "what the kills left behind is cleared away"
