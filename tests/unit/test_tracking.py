"""Tracking against real stores: SQLite, and MLflow's own server, which is stopped and started again."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ucdr_ray.commands.tracked import log_disentanglement, log_evaluation
from ucdr_ray.errors import UserError
from ucdr_ray.tracking import Tracker, flatten, metric_name, resolve_uri


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make: made once, copied per test."""
    folder = tmp_path_factory.mktemp("store")
    Tracker.start(resolve_uri(None, folder), "first", folder).finish()
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return resolve_uri(None, tmp_path)


def stored(uri: str, run_id: str | None) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri).get_run(str(run_id))


def test_a_run_has_its_parameters_metrics_artefacts_and_status(uri: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with Tracker.start(uri, "pacs", tmp_path / "RUN", tags={"catalog": "abc"}) as tracker:
        tracker.log_params({"train": {"lr": 0.001, "domains": ["photo", "Real World"]}, "note": "x" * 9000})
        tracker.log_metrics({"loss": 2.5, "neighbours/photo->sketch": 0.31, "left out": None}, step=1)
        tracker.log_metrics({"loss": 1.5}, step=2)
        tracker.log_artifact(tmp_path / "config.yaml")
    run = stored(uri, tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"loss": 1.5, "neighbours/photo_to_sketch": 0.31}
    assert run.data.params["train.lr"] == "0.001"
    assert run.data.params["train.domains"] == '["photo", "Real World"]'
    assert len(run.data.params["note"]) == 6000
    assert run.data.tags["catalog"] == "abc"
    assert (Path(run.info.artifact_uri.removeprefix("file://")) / "config.yaml").read_text() == "a: 1\n"


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_an_exception_is_the_runs_status(
    uri: str, tmp_path: Path, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), Tracker.start(uri, "x", tmp_path) as tracker:
        raise error
    assert stored(uri, tracker.run_id).info.status == status


def test_a_resumed_run_goes_on(uri: str, tmp_path: Path) -> None:
    first = Tracker.start(uri, "x", tmp_path)
    first.log_params({"lr": 1})
    first.log_metrics({"loss": 2.0}, step=1)
    with Tracker.start(uri, "x", tmp_path, run_id=first.run_id) as second:
        assert stored(uri, first.run_id).info.status == "RUNNING"
        second.log_params({"lr": 2})  # refused by MLflow, for ever: dropped
        second.log_metrics({"loss": 1.0}, step=2)
    run = stored(uri, first.run_id)
    assert (run.info.status, run.data.metrics["loss"], run.data.params["lr"]) == ("FINISHED", 1.0, "1")
    assert not (tmp_path / "mlflow_spool.jsonl").exists()


def test_an_unknown_run_is_started_anew(uri: str, tmp_path: Path) -> None:
    tracker = Tracker.start(uri, "x", tmp_path, run_id="0" * 32)
    assert tracker.run_id != "0" * 32


def test_a_resumed_run_knows_the_epochs_it_has(uri: str, tmp_path: Path) -> None:
    first = Tracker.start(uri, "x", tmp_path)
    assert first.epochs == set()
    for epoch in (1, 2):
        first.log_metrics({"epoch": epoch, "loss": 1.0}, step=epoch)
    waiting = {"metrics": {"epoch": 4.0}, "step": 4, "time_ms": 0}
    (tmp_path / "mlflow_spool.jsonl").write_text(json.dumps(waiting) + "\n")
    assert Tracker.start(uri, "x", tmp_path, run_id=first.run_id).epochs == {1, 2, 4}


@pytest.mark.parametrize("uri", ["mlruns", "file:///mlruns", "ftp://host", ""])
def test_an_address_that_is_none_is_named_with_what_is_allowed(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed: sqlite:"):
        resolve_uri(uri, tmp_path)


def test_relative_sqlite_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_uri("sqlite:///here.db", tmp_path) == f"sqlite:///{tmp_path}/here.db"
    assert resolve_uri(f"sqlite:///{tmp_path}/here.db", tmp_path) == f"sqlite:///{tmp_path}/here.db"
    assert resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_store_that_does_not_answer_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    for uri in ("http://127.0.0.1:9", f"sqlite:///{tmp_path}/broken.db"):
        with pytest.raises(UserError, match=r"does not answer .*tracking\.enabled=false") as caught:
            Tracker.start(uri, "x", tmp_path)
        assert "\n" not in str(caught.value)


def test_off_tracks_nothing(tmp_path: Path) -> None:
    with Tracker.off() as tracker:
        tracker.log_params({"a": 1})
        tracker.log_metrics({"a": 1.0}, step=1)
        tracker.log_artifact(tmp_path)
    assert tracker.run_id is None


def test_more_metrics_and_parameters_than_one_call_takes(uri: str, tmp_path: Path) -> None:
    with Tracker.start(uri, "x", tmp_path) as tracker:
        tracker.log_params({f"p{i}": i for i in range(230)})
        tracker.log_metrics({f"m{i}": float(i) for i in range(2300)}, step=0)
    run = stored(uri, tracker.run_id)
    assert len(run.data.params) == 230
    assert run.data.metrics == {f"m{i}": float(i) for i in range(2300)}


def test_an_evaluation_joins_a_finished_run(uri: str, tmp_path: Path) -> None:
    with Tracker.start(uri, "x", tmp_path) as tracker:
        pass
    result = {"pairs": {"photo->Real World": {"map@all": 0.25}}, "mean": {"map@all": 0.5}}
    log_evaluation(result, tracker.run_id, uri, tmp_path)
    run = stored(uri, tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"eval/photo_to_Real World/map_at_all": 0.25, "eval/mean/map_at_all": 0.5}


def test_probes_and_their_page_go_to_a_finished_run(uri: str, tmp_path: Path) -> None:
    with Tracker.start(uri, "dude", tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, step=1)
    (tmp_path / "page.png").write_bytes(b"png")
    before, after = {"domain": 0.9, "object": None}, {"domain": 0.5, "object": None}
    figures = {"embedding": {"before": before, "after": after}}
    log_disentanglement(figures, tmp_path / "page.png", tracker.run_id, uri, tmp_path)
    run = stored(uri, tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "loss": 1.0,
        "probe/embedding/domain_before": 0.9,
        "probe/embedding/domain_after": 0.5,
    }
    assert (Path(run.info.artifact_uri.removeprefix("file://")) / "page.png").read_bytes() == b"png"


class Server:
    """MLflow's own HTTP server in a thread, on one port."""

    port = 0

    def start(self) -> None:
        from mlflow.server import app
        from werkzeug.serving import make_server

        self._http = make_server("127.0.0.1", self.port, app, threaded=False)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", uri)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (tmp_path / "artefacts").as_uri())
    server = Server()
    server.start()
    yield server
    server.stop()


def test_a_server_lost_during_training_gets_all_of_it_later(
    server: Server, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "RUN" / "mlflow_spool.jsonl"
    tracker = Tracker.start(f"http://127.0.0.1:{server.port}", "x", tmp_path / "RUN")
    tracker.log_metrics({"loss": 3.0}, step=1)
    server.stop()
    caplog.clear()
    tracker.log_metrics({"loss": 2.0, "a->b": float("nan")}, step=2)
    tracker.log_metrics({"loss": 1.0}, step=3)
    assert sum("MLflow is lost" in line for line in caplog.messages) == 1
    assert [json.loads(line)["step"] for line in spool.read_text().splitlines()] == [2, 3]
    server.start()
    tracker.log_metrics({"loss": 0.5}, step=4)
    assert not spool.exists()
    tracker.finish()
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        rows = database.execute("select step, value from metrics where key = 'loss' order by step").fetchall()
    assert rows == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert stored(uri, tracker.run_id).info.status == "FINISHED"


@given(st.text(max_size=300))
def test_metric_names_hold_only_what_mlflow_allows(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name("x" + metric_name(name).replace("/", "").replace(".", ""))
    assert len(metric_name(name)) <= 250


def test_metric_names_stay_readable() -> None:
    assert metric_name("photo->sketch/capped_precision@50") == "photo_to_sketch/capped_precision_at_50"


def test_flatten_keeps_every_leaf() -> None:
    assert flatten({"a": {"b": {"c": True}}, "d": None, "e": "text"}) == {
        "a.b.c": "true",
        "d": "null",
        "e": "text",
    }
