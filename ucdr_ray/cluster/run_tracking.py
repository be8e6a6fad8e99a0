"""The MLflow run of a training run, and what the verb that trains says in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ucdr_ray.config import RunConfig
from ucdr_ray.run import Run
from ucdr_ray.tracking import Tracker


@contextmanager
def tracked(config: RunConfig, run: Run, uri: str | None) -> Iterator[Tracker]:
    """The tracker of a run that has begun; None: nothing is tracked. UserError: the store does not answer."""
    if uri is None:
        yield Tracker.off()
        return
    values = run.read()
    with Tracker.start(
        uri, values["name"], run.path, experiment=config.tracking.experiment, run_id=values["mlflow_run_id"]
    ) as tracker:
        run.update(mlflow_run_id=tracker.run_id, mlflow_uri=uri)
        tracker.log_params(config.model_dump(mode="json") | {"catalog": values["catalog_fingerprint"]})
        yield tracker


def log_finished(run: Run, tracker: Tracker) -> None:
    """What a finished run leaves."""
    for path in (run.path / "config.yaml", run.path / "metrics.jsonl", run.encoder):
        tracker.log_artifact(path)


def outcome(run: Run) -> dict[str, Any]:
    """Folders, names, and the last epoch's metrics of a finished run."""
    values, rows = run.read(), run.metrics()
    return {
        "run": str(run.path),
        "encoder": str(run.encoder),
        "name": values["name"],
        "mlflow_run_id": values["mlflow_run_id"],
        "seconds": sum(row["seconds"] for row in rows),
        "metrics": rows[-1],
    }
