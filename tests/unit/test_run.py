"""The run folder: begun once, resumed only as what it is, held by one training at a time."""

import json
from pathlib import Path

import pytest

from tests.tiny import make_catalog
from tests.training import tiny_config, train_alone
from ucdr_ray import files
from ucdr_ray.config import load_config
from ucdr_ray.errors import UserError
from ucdr_ray.run import Run, begin, check_folder


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("run") / "catalog", {"photo": 9, "sketch": 8})


@pytest.fixture
def run(tmp_path, catalog) -> Run:
    """One that has just begun."""
    started = check_folder(tmp_path / "run", resume=False)
    assert begin(started, tiny_config(), catalog, resume=False)
    started.add_start(0)
    return started


def test_a_new_run_says_what_it_is(run, catalog):
    values = run.read()
    assert (values["status"], values["mlflow_run_id"]) == ("running", None)
    assert values["catalog_fingerprint"] == catalog.fingerprint
    assert load_config(run.path / "config.yaml") == tiny_config()


def refusal(run, config, catalog, resume) -> str:
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        begin(check_folder(run.path, resume), config, catalog, resume)
    assert "\n" not in str(error.value) and (run.path / "run.json").read_bytes() == before
    return str(error.value)


def test_an_unfinished_run_needs_resume(run, catalog):
    assert "holds an unfinished run; add --resume to go on, or choose another --out" in refusal(
        run, tiny_config(), catalog, False
    )
    assert begin(run, tiny_config(["train.workers=2", "tracking.experiment=x"]), catalog, True)
    assert load_config(run.path / "config.yaml").train.workers == 2


def test_a_finished_run_is_left_alone(run, catalog):
    with run.going():
        pass
    assert "holds a finished run" in refusal(run, tiny_config(), catalog, False)
    assert not begin(run, tiny_config(), catalog, resume=True)
    assert run.read()["status"] == "finished"


@pytest.mark.parametrize("resume", [True, False])
def test_another_config_or_catalog_is_named(run, catalog, tmp_path, resume):
    line = refusal(run, tiny_config(["train.lr=0.5", "train.workers=2"]), catalog, resume)
    assert "holds a run of another config (train.lr: 0.01 there, 0.5 here); choose another --out" in line
    other = make_catalog(tmp_path / "other", {"photo": 9, "sketch": 9})
    assert f"holds a run on another catalog, {catalog.path}" in refusal(run, tiny_config(), other, resume)


def test_another_number_of_workers_is_named_where_it_matters(tmp_path, catalog):
    config = tiny_config(["model.batch_norm=train", "train.workers=2"])
    run = check_folder(tmp_path / "run", resume=False)
    begin(run, config, catalog, resume=False)
    run.add_start(0)
    other = tiny_config(["model.batch_norm=train", "train.workers=3"])
    assert "another config (train.workers: 2 there, 3 here)" in refusal(run, other, catalog, True)
    assert begin(run, config, catalog, resume=True)


def test_another_generator_is_named(tmp_path, catalog):
    run = check_folder(tmp_path / "run", resume=False)
    begin(run, tiny_config(), catalog, False, "a" * 64)
    run.add_start(0)
    with pytest.raises(UserError, match="taught by another generator"):
        begin(run, tiny_config(), catalog, True, "b" * 64)
    assert begin(run, tiny_config(), catalog, True, "a" * 64)


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(UserError, match="--resume: there is no run at"):
        check_folder(tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()
    (tmp_path / "letter.txt").write_text("dear")
    for path in (tmp_path, tmp_path / "letter.txt"):
        with pytest.raises(UserError, match="exists and is not a run; choose another --out"):
            check_folder(path, resume=False)
    with pytest.raises(UserError, match="Not a directory"):
        check_folder(tmp_path / "letter.txt" / "run", resume=False)


@pytest.mark.parametrize("file", ["config.yaml", "run.json"])
def test_a_power_cut_while_a_run_begins_does_not_block_its_folder(tmp_path, catalog, monkeypatch, file):
    class PowerCut(BaseException):
        pass

    def cut(draft, path, settle=files.settle):
        if path.name == file:
            raise PowerCut
        settle(draft, path)

    run = check_folder(tmp_path / "run", resume=False)
    with monkeypatch.context() as patch:
        patch.setattr(files, "settle", cut)
        patch.setattr(Path, "unlink", lambda self, **_: None)  # nor does anybody tidy up
        with pytest.raises(PowerCut):
            begin(run, tiny_config(), catalog, resume=False)
    assert [entry for entry in run.path.iterdir() if entry.name.startswith(f".{file}.")]
    for resume in (False, True):
        check_folder(run.path, resume)
    assert begin(run, tiny_config(), catalog, resume=False)


def test_a_start_that_came_to_nothing_can_be_repeated(tmp_path, catalog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / "config.yaml").write_text("half")
    for resume in (False, True):
        check_folder(tmp_path / "run", resume)
    assert begin(Run(tmp_path / "run"), tiny_config(), catalog, True)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_that_nothing_was_trained_of_is_taken_over(tmp_path, catalog, resume):
    run = check_folder(tmp_path / "run", resume=False)
    begin(run, tiny_config(["train.lr=0.5"]), catalog, resume=False)
    run.update(status="failed", mlflow_run_id="abc")
    (run.path / "mlflow_spool.jsonl").write_text("{}\n")
    assert begin(check_folder(run.path, resume), tiny_config(["train.lr=0.5"]), catalog, resume)
    assert (run.read()["status"], run.read()["mlflow_run_id"]) == ("running", "abc")
    assert (run.path / "mlflow_spool.jsonl").exists()

    other = make_catalog(tmp_path / "other", {"photo": 9, "sketch": 9})
    assert begin(check_folder(run.path, resume), tiny_config(), other, resume)
    assert (run.read()["catalog_fingerprint"], run.read()["mlflow_run_id"]) == (other.fingerprint, None)
    assert load_config(run.path / "config.yaml") == tiny_config()
    assert not (run.path / "mlflow_spool.jsonl").exists()

    run.add_start(0)
    assert "holds a run of another config" in refusal(run, tiny_config(["train.lr=0.5"]), other, resume)


def test_one_training_at_a_time_and_how_it_ended(run):
    refused = pytest.raises(UserError, match="another process is training there")
    with run.held(), refused, Run(run.path).held():
        pass
    with pytest.raises(ZeroDivisionError), run.held(), run.going():
        raise ZeroDivisionError
    assert run.read()["status"] == "failed"
    with pytest.raises(KeyboardInterrupt), run.held(), run.going():
        raise KeyboardInterrupt
    assert run.read()["status"] == "interrupted"


def test_resuming_forgets_what_comes_after_the_checkpoint(run, catalog):
    train_alone(catalog, run.path, ["train.keep_checkpoints=9"], lambda metrics, _: run.add_metrics(metrics))
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    checkpoints = sorted(run.checkpoints.iterdir())
    for late in checkpoints[3:]:
        late.rename(late.with_name(f".{late.name}.tmp"))  # as a crash while writing leaves them
    assert begin(run, tiny_config(), catalog, resume=True)
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3]
    assert sorted(run.checkpoints.iterdir()) == checkpoints[:3]

    damaged = checkpoints[2] / "state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert f"checkpoint {checkpoints[2]} is damaged" in refusal(run, tiny_config(), catalog, True)


def test_a_foreign_run_json(run, catalog):
    values = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(values | {"version": 2}))
    assert "is not a run of version 1" in refusal(run, tiny_config(), catalog, True)
    (run.path / "run.json").write_text(json.dumps(values | {"catalog": 7}))
    assert "run.json does not say its catalog" in refusal(run, tiny_config(), catalog, True)


@pytest.mark.parametrize("line", ['{"epoch": 1, "sec', '{"epoch": 1}', "7"])
def test_damaged_metrics_are_named(run, line):
    (run.path / "metrics.jsonl").write_text(line)
    with pytest.raises(UserError, match="a line of .*metrics.jsonl does not say epoch, seconds"):
        run.metrics()
