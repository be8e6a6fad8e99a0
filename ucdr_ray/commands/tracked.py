"""What is found out about a finished run, added to it in MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ucdr_ray.errors import UserError
from ucdr_ray.tracking import Tracker


def tracked_run(run: Path) -> tuple[str, str]:
    """The MLflow run of a training run, and the store that it is in. UserError: it was not tracked."""
    from ucdr_ray.run import Run

    values = Run(run).read()
    if not values.get("mlflow_run_id"):
        raise UserError(f"--mlflow: the run at {run} was not tracked (tracking.enabled=false)")
    return values["mlflow_run_id"], values["mlflow_uri"]


def log_evaluation(result: Mapping[str, Any], run_id: str | None, uri: str, folder: Path) -> None:
    """Add an evaluation (``{"pairs": {"a->b": {metric: x}}, "mean": {metric: x}}``) to a run, or to a new one.

    Names: ``eval/mean/map_at_all``, ``eval/a_to_b/map_at_all``; of centred vectors ``eval_centred/…``. A finished run
    stays finished.
    """
    kind = "eval_centred" if result.get("centred") else "eval"
    metrics = {f"{kind}/mean/{name}": value for name, value in result["mean"].items()}
    for pair, values in result["pairs"].items():
        metrics |= {f"{kind}/{pair}/{name}": value for name, value in values.items()}
    with Tracker.start(uri, "evaluate", folder, run_id=run_id) as tracker:
        tracker.log_metrics(metrics, step=0)


def log_disentanglement(
    figures: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    page: Path,
    run_id: str | None,
    uri: str,
    folder: Path,
) -> None:
    """Add linear probes (``probe/embedding/domain_before`` …) and the page to a run. A finished run stays finished.

    Args:
        figures: as of `Disentangled.figures`.
    """
    metrics = {
        f"probe/{of}/{what}_{when}": value
        for of, times in figures.items()
        for when, values in times.items()
        for what, value in values.items()
    }
    with Tracker.start(uri, "disentangle", folder, run_id=run_id) as tracker:
        tracker.log_metrics(metrics, step=0)
        tracker.log_artifact(page)
