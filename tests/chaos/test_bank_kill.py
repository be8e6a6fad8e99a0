"""A training whose bank loses shards, by death or by hanging, ends as one that nobody disturbed."""

import json
import os
import signal

import pytest
import torch

from tests.chaos.test_training_kill import SETTINGS, Training, descendants, name, status
from tests.tiny import make_catalog
from tests.training import tensors, train_alone

FEW = [
    "method.stages.instance=3",
    "method.stages.in_domain=3",
    "method.stages.cross_domain=6",
    "train.checkpoint_every=2",
]
SHARDED = [*FEW, "train.workers=2", "bank.shards=2", "bank.timeout=2"]


def start(catalog, run, *settings):
    return Training(catalog.path, run, *(word for s in (*SHARDED, *settings) for word in ("--set", s)))


def shards(training):
    """Processes of the bank's actors."""
    return [pid for pid in descendants(training.process.pid) if "BankShard" in name(pid)]


def finished(training, run):
    said = training.end()
    assert training.process.returncode == 0 and "Traceback" not in said, said
    assert status(run) == "finished" and not (run / "bank").exists()
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.timeout(900)
def test_shards_killed_hung_and_killed_with_a_worker(tmp_path):
    """The worker left over is in the middle of a collective, which it can't finish."""
    catalog = make_catalog(tmp_path / "catalog", {"photo": 50, "sketch": 41})
    run = tmp_path / "run"
    training = start(catalog, run)
    training.until(4)  # with neighbours
    os.kill(shards(training)[1], signal.SIGKILL)
    training.until(6)
    os.kill(shards(training)[0], signal.SIGSTOP)
    training.until(8)
    os.kill(shards(training)[1], signal.SIGKILL)
    training.kill_worker()
    said = training.end()
    assert training.process.returncode == 0 and "Traceback" not in said, said
    assert said.count("of the memory bank was lost and is replaced") == 3, said
    assert "a worker died; all go on after epoch" in said and status(run) == "finished"
    assert not (run / "bank").exists()
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, 13)
    ]
    undisturbed = train_alone(catalog, tmp_path / "alone", [*SETTINGS, *FEW])
    for key, value in tensors(run).items():
        torch.testing.assert_close(value, undisturbed[key], rtol=1e-2, atol=1e-3)
