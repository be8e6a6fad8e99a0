"""A training whose worker and driver are killed ends in the weights of one that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.tiny import make_catalog
from tests.training import overrides, tensors, train_alone

SETTINGS = [
    "method.stages.instance=30",
    "method.stages.in_domain=15",
    "method.stages.cross_domain=15",
    "train.checkpoint_every=3",
    "train.workers=1",
    "train.threads=1",
    "tracking.enabled=false",
]


class Training:
    """One call of `ucdr train`."""

    def __init__(self, catalog: Path, run: Path, *options: str) -> None:
        self.run = run
        settings = [word for override in overrides(SETTINGS) for word in ("--set", override)]
        call = ["train", "--catalog", str(catalog), "--out", str(run), *settings, *options]
        code = "from ucdr_ray.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *call], stderr=subprocess.PIPE, text=True
        )

    def until(self, epoch: int) -> None:
        """Wait for the end of an epoch."""
        file = self.run / "metrics.jsonl"
        while not file.exists() or len(file.read_text().splitlines()) < epoch:
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.02)

    def kill_worker(self) -> None:
        """Kill one of its workers of Ray Train, outright."""
        workers = [pid for pid in descendants(self.process.pid) if "RayTrainWorker" in name(pid)]
        os.kill(workers[-1], signal.SIGKILL)

    def end(self) -> str:
        """What it said on standard error."""
        return self.process.communicate()[1]


def name(pid: int) -> str:
    """What a process calls itself."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and what these have started."""
    children = [
        int(word)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for word in file.read_text().split()
    ]
    return children + [deeper for child in children for deeper in descendants(child)]


def status(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["status"]


@pytest.mark.timeout(600)
def test_killed_worker_interrupt_and_killed_driver(tmp_path):
    catalog, run = make_catalog(tmp_path / "catalog", {"photo": 50, "sketch": 41}), tmp_path / "run"

    first = Training(catalog.path, run)
    first.until(8)
    first.kill_worker()
    first.until(20)
    os.kill(first.process.pid, signal.SIGINT)
    said = first.end()
    assert first.process.returncode == 130 and "Traceback" not in said, said
    assert "a worker died; all go on after epoch" in said
    assert status(run) == "interrupted" and not (run / "encoder").exists()

    refused = Training(catalog.path, run)
    assert "add --resume to go on, or choose another --out" in refused.end()
    assert refused.process.returncode == 2

    second = Training(catalog.path, run, "--resume")
    second.until(40)
    second.process.kill()
    second.end()
    assert status(run) == "running" and not (run / "encoder").exists()

    third = Training(catalog.path, run, "--resume")
    said = third.end()
    assert third.process.returncode == 0, said
    assert status(run) == "finished"
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, 61)
    ]

    undisturbed = train_alone(catalog, tmp_path / "alone", SETTINGS)
    assert all(torch.equal(value, undisturbed[name]) for name, value in tensors(run).items())
