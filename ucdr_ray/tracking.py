"""What a run did, in MLflow: the only module that imports it.

A wrong address is an error at the start, when a person is watching. A server lost later never stops a training:
what could not be sent waits in ``RUN/mlflow_spool.jsonl`` and goes with the next success.
"""

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from ucdr_ray.errors import UserError
from ucdr_ray.files import atomic_write

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
EXPERIMENT = "ucdr-ray"

# MLflow's own limits.
_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
_LONGEST_PARAM = 6000
_LONGEST_NAME = 250

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")


def resolve_uri(uri: str | None, folder: Path) -> str:
    """The tracking address to use: ``uri``, or the SQLite store ``folder/mlflow.db`` where it is None.

    Relative SQLite paths become absolute, so that every process of a job means the same file.

    Raises:
        UserError: a scheme that MLflow's server-less client cannot use (a bare folder, ``file:``).
    """
    if uri is None:
        return f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    scheme, colon, rest = uri.partition("://")
    if not colon or scheme.split("+")[0] not in _SCHEMES:
        raise UserError(
            f"tracking.uri {uri!r} is no MLflow address; allowed: sqlite:////absolute/path.db, "
            f"http(s)://host:port, or a {', '.join(_SCHEMES[1:4])} URI"
        )
    if scheme == "sqlite":
        return f"sqlite:///{Path(rest.removeprefix('/')).resolve()}"
    return uri


def metric_name(name: str) -> str:
    """``name`` in the characters MLflow allows: ``photo->sketch/map@all`` becomes ``photo_to_sketch/map_at_all``."""
    name = name.replace("->", "_to_").replace("@", "_at_")
    return re.sub(r"[^\w/.\- ]", "_", name)[:_LONGEST_NAME]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``section.field`` → text; lists and other values as JSON, cut at MLflow's limit."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            flat[f"{prefix}{key}"[:_LONGEST_NAME]] = (
                text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - 1] + "…"
            )
    return flat


def git_commit() -> str | None:
    """The commit of the checkout this package runs from; None where it was installed otherwise."""
    root = Path(__file__).resolve().parent.parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit = answer.stdout.splitlines()
    return commit if Path(top).resolve() == root else None


def _client(uri: str) -> Any:
    # Before the import: a training must not wait minutes for a dead server, nor report to anybody.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    artifacts = None  # a server knows its own place
    if uri.startswith("sqlite:///"):
        artifacts = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=artifacts))


def _existing(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise


class Tracker:
    """One MLflow run, or nothing at all (`Tracker.off()`); use it as a context, which sets the run's end status.

    Calls never raise once the run is open. One writer per run: the driver, or the worker of rank 0.

    `epochs` are those whose metrics the store, or the spool, holds already from before.
    """

    def __init__(
        self, client: Any, run_id: str | None, spool: Path | None, epochs: frozenset[int] = frozenset()
    ) -> None:
        self._client, self.run_id, self._spool = client, run_id, spool
        self._lost = False
        self.epochs = epochs | {
            record["step"] for record in self._spooled() if "epoch" in record.get("metrics", {})
        }

    @classmethod
    def off(cls) -> Self:
        """A tracker that tracks nothing."""
        return cls(None, None, None)

    @classmethod
    def start(
        cls,
        uri: str,
        name: str,
        folder: Path,
        *,
        experiment: str = EXPERIMENT,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Self:
        """Open a run called ``name``, or go on with ``run_id`` where the store still knows it.

        Args:
            uri: as `resolve_uri` gives it.
            folder: the run's folder, where the spool lies.

        Raises:
            UserError: the store does not answer.
        """
        marks = dict(tags or {}) | {
            "mlflow.source.name": "ucdr",
            "mlflow.source.git.commit": git_commit() or "",
        }
        epochs: frozenset[int] = frozenset()
        try:
            client = _client(uri)
            if run_id is not None and _existing(client, run_id):
                client.update_run(run_id, status="RUNNING")
                epochs = frozenset(point.step for point in client.get_metric_history(run_id, "epoch"))
            else:
                if run_id is not None:
                    log.warning("MLflow at %s does not know run %s; starting a new one", uri, run_id)
                marks = {key: value for key, value in marks.items() if value}
                run_id = client.create_run(
                    _experiment(client, uri, experiment), tags=marks, run_name=name
                ).info.run_id
        except Exception as error:  # MLflow lets its database's and its network's own errors through
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"MLflow at {uri} does not answer ({reason[:200]}); start it, change tracking.uri, "
                "or set tracking.enabled=false"
            ) from error
        return cls(client, run_id, Path(folder) / "mlflow_spool.jsonl", epochs)

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Log a nested mapping as flat parameters. MLflow keeps a parameter's first value for ever."""
        self._send({"params": flatten(settings)})

    def log_metrics(self, metrics: Mapping[str, float | None], step: int) -> None:
        """Log a mapping in one call at ``step``; None is left out. A step logged twice shows two points."""
        values = {metric_name(name): float(value) for name, value in metrics.items() if value is not None}
        self._send({"metrics": values, "step": step, "time_ms": int(time.time() * 1000)})

    def log_artifact(self, path: Path) -> None:
        """Copy a file, or all of a folder, to the run's artefacts."""
        if self._client is None:
            return
        path = Path(path)
        try:
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), path.name)
            else:
                self._client.log_artifact(self.run_id, str(path))
        except Exception as error:  # an artefact lies in the run folder anyway
            log.warning("MLflow did not take %s: %s", path, error)

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what waits and close the run."""
        if self._client is None:
            return
        self._send({"status": status})
        if self._lost:
            log.warning(
                "MLflow was not reached again: %s holds what it misses; a resumed run sends it", self._spool
            )

    def _send(self, record: dict[str, Any]) -> None:
        if self._client is None or self._spool is None:
            return
        waiting = [*self._spooled(), record]
        while waiting:
            try:
                self._deliver(waiting[0])
            except Exception as error:  # whatever it is, tracking does not stop a training
                if not self._lost:
                    log.warning("MLflow is lost (%s); keeping metrics in %s", error, self._spool)
                self._lost = True
                atomic_write(self._spool, "".join(json.dumps(item) + "\n" for item in waiting).encode())
                return
            waiting.pop(0)
        self._lost = False
        self._spool.unlink(missing_ok=True)

    def _spooled(self) -> Iterator[dict[str, Any]]:
        if self._spool is not None and self._spool.exists():
            for line in self._spool.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)

    def _deliver(self, record: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        if "status" in record:
            self._client.set_terminated(self.run_id, record["status"])
            return
        try:
            params = [Param(key, value) for key, value in record.get("params", {}).items()]
            for start in range(0, len(params), _PARAMS_PER_CALL):
                self._client.log_batch(self.run_id, params=params[start : start + _PARAMS_PER_CALL])
            metrics = [
                Metric(key, value, record["time_ms"], record["step"])
                for key, value in record.get("metrics", {}).items()
            ]
            for start in range(0, len(metrics), _METRICS_PER_CALL):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            # It would be refused for ever (a parameter changed by a resume): waiting does not help.
            log.warning("MLflow refuses a record: %s", str(error).splitlines()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")
