"""The long form of the fault tests: 20 kills of each job, 1,000 mutants of an image."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.chaos.test_bank_kill import shards
from tests.chaos.test_training_kill import SETTINGS, Training
from tests.pictures import noise
from tests.tiny import make_catalog, make_embeddings
from tests.training import tensors, train_alone
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.engine import Metrics
from ucdr_ray.images import Reject, decode
from ucdr_ray.index.search import Index

pytestmark = pytest.mark.campaign
KILLS, MUTANTS = 20, 1_000


def mutant(data: bytes, chance: random.Random) -> bytes:
    """Cut, with bytes changed, with bytes inserted, or with a stretch of it repeated."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 4, 32])):
        place = chance.randrange(len(changed) or 1)
        kind = chance.randrange(4)
        if kind == 0:
            del changed[place:]
        elif kind == 1 and changed:
            changed[place] = chance.randrange(256)
        elif kind == 2:
            changed[place:place] = chance.randbytes(chance.randrange(1, 9))
        else:
            changed[place:place] = changed[place : place + chance.randrange(1, 65)]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_mutant_of_an_image_is_pixels_or_a_reason(kind: str, tell: Callable[..., None]) -> None:
    chance, whole = random.Random(kind), noise(0, 40, 30, kind)
    rejected = 0
    for _ in range(MUTANTS):
        try:
            assert decode(mutant(whole, chance)).mode == "RGB"
        except Reject:
            rejected += 1
    tell(f"mutants of a {kind}", tried=MUTANTS, rejected=rejected)


def test_a_training_survives_twenty_kills(tmp_path: Path, tell: Callable[..., None]) -> None:
    """In turns the worker and the whole job, at random moments of one run."""
    catalog, run = make_catalog(tmp_path / "catalog", {"photo": 50, "sketch": 41}), tmp_path / "run"
    limits = ["--set", "train.max_failures=100"]
    chance, training = random.Random(0), Training(catalog.path, run, *limits)
    done = 0
    for kill in range(KILLS):
        done += 2
        training.until(done)
        time.sleep(chance.uniform(0, 0.5))
        if kill % 2:
            training.process.kill()
            training.end()
            training = Training(catalog.path, run, *limits, "--resume")
        else:
            training.kill_worker()
        done = min(done, epochs(run))
    said = training.end()
    assert training.process.returncode == 0, said
    undisturbed = train_alone(catalog, tmp_path / "alone", SETTINGS)
    assert all(torch.equal(value, undisturbed[name]) for name, value in tensors(run).items())
    tell("kills of a training", tried=KILLS, recovered=KILLS)


@pytest.mark.parametrize("copies", [True, False])
def test_a_training_survives_twenty_kills_of_its_bank(
    tmp_path: Path, copies: bool, tell: Callable[..., None]
) -> None:
    """With copies it ends where it would have ended; without, within the spread of undisturbed seeds."""
    catalog, run = make_catalog(tmp_path / "catalog", {"photo": 50, "sketch": 41}), tmp_path / "run"
    limits = ["train.workers=2", "bank.shards=2", f"bank.copy_limit_gb={4 if copies else 0}"]
    training = Training(catalog.path, run, *(word for s in limits for word in ("--set", s)))
    chance = random.Random(0)
    for kill in range(KILLS):
        training.until(2 + 2 * kill)
        time.sleep(chance.uniform(0, 0.5))
        alive = shards(training)
        if alive:  # one may not be back yet
            os.kill(chance.choice(alive), signal.SIGKILL)
    said = training.end()
    assert training.process.returncode == 0, said
    losses = []
    for seed in range(3):
        alone = tmp_path / f"alone-{seed}"
        rows: list[Metrics] = []
        undisturbed = train_alone(
            catalog, alone, [*SETTINGS, f"train.seed={seed}"], lambda row, _, rows=rows: rows.append(row)
        )
        losses.append(float(rows[-1]["loss"]))
        if copies and seed == 0:
            for name, value in tensors(run).items():
                torch.testing.assert_close(value, undisturbed[name], rtol=1e-2, atol=1e-3)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
    spread = max(losses) - min(losses)
    assert min(losses) - spread <= last <= max(losses) + spread, (last, losses)
    replaced = said.count("of the memory bank was lost and is replaced")
    tell(f"kills of a bank shard, {'with' if copies else 'without'} copies", tried=KILLS, replaced=replaced)


def epochs(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("verb", ["ingest", "embed", "index"])
def test_a_job_killed_at_any_moment_is_done_by_the_next(
    verb: str, tmp_path: Path, tell: Callable[..., None]
) -> None:
    catalog = make_catalog(tmp_path / "catalog", {"photo": 400, "sketch": 300}, rows_per_part=10)
    images = tmp_path / "images"
    for domain in ("photo", "sketch"):
        (images / domain).mkdir(parents=True)
        for number in range(200):
            (images / domain / f"{number}.png").write_bytes(noise(number + 1_000 * (domain == "photo")))
    make_embeddings(tmp_path / "vectors", catalog)
    call = {
        "ingest": ["ingest", str(images), "--out"],
        "embed": ["embed", "--backbone", "random:resnet-mini", "--size", "32", "--catalog", str(catalog.path), "--out"],
        "index": ["index", "build", str(tmp_path / "vectors"), "--catalog", str(catalog.path), "--out"],
    }[verb]  # fmt: skip
    whole = tmp_path / "whole"
    started = time.monotonic()
    assert start([*call, str(whole)]).wait() == 0
    once = time.monotonic() - started
    chance, out, killed = random.Random(verb), tmp_path / "out", 0
    for _ in range(KILLS):
        process = start([*call, str(out)])
        time.sleep(chance.uniform(0.3, 1) * once)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        elif verb != "index":  # a finished catalog is left as it is: begin anew
            shutil.rmtree(out)
        process.wait()
    assert start([*call, str(out)]).wait() == 0
    assert same(verb, out, whole)
    tell(f"kills of ucdr {verb}", tried=KILLS, killed=killed, recovered=killed)


def start(words: list[str]) -> subprocess.Popen[bytes]:
    code = "from ucdr_ray.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)


def same(verb: str, a: Path, b: Path) -> bool:
    if verb == "index":
        query = np.eye(256, dtype=np.float32)[:5]
        return [f.hits for f in Index.open(a).search(query)] == [f.hits for f in Index.open(b).search(query)]
    if verb == "embed":
        made, other = Embeddings.open(a), Embeddings.open(b)
        return all(
            np.allclose(made.vectors(name), other.vectors(name), atol=1e-5) for name in ("photo", "sketch")
        )
    from ucdr_ray.catalog import Catalog

    return Catalog.open(a).fingerprint == Catalog.open(b).fingerprint
