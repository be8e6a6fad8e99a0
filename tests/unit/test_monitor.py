"""What the driver tells of a run that the workers write, whenever it looks."""

from pathlib import Path
from typing import Any

import pytest

from ucdr_ray.cluster.monitor import Monitor
from ucdr_ray.run import Run
from ucdr_ray.tracking import Tracker, resolve_uri

STAGES = {"instance": 6}


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "stage": "instance", "loss": 1.0, "images_per_s": 9.0, "seconds": 1.0}


def test_every_epoch_reaches_mlflow_once_however_the_driver_ended(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run, uri = Run(tmp_path), resolve_uri(None, tmp_path)
    with Tracker.start(uri, "x", tmp_path) as tracker:
        run.add_metrics(row(1))
        with Monitor(run, STAGES, tracker):
            run.add_metrics(row(2))
    # The driver is killed: the workers finish epochs that nobody sends.
    run.add_metrics(row(3))
    run.add_metrics(row(4))
    with Tracker.start(uri, "x", tmp_path, run_id=tracker.run_id) as again, Monitor(run, STAGES, again):
        run.add_metrics(row(5))
        run.cut_metrics(3)  # a worker dies
        run.add_metrics(row(4))
        run.add_metrics(row(5))
    history = MlflowClient(uri).get_metric_history(str(tracker.run_id), "loss")
    assert [point.step for point in history] == [1, 2, 3, 4, 5]


def test_each_death_is_told_though_nobody_looked_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    run.add_start(0)
    with Monitor(run, STAGES, Tracker.off()):
        run.add_start(1)  # this call's own
        for epoch in (2, 3):  # deaths, after which just as many epochs were done again
            run.add_start(epoch)
            run.add_metrics(row(epoch))
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "died" in line] == [
        f"train: a worker died; all go on after epoch {epoch}" for epoch in (2, 3)
    ]
