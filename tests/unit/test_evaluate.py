"""`ucdr evaluate` and `ucdr report`, on a small catalog and a run that was never trained."""

import json
import shutil

import numpy as np
import pytest

from tests.pictures import catalog as ingest
from tests.pictures import small_tree
from tests.tiny import make_embeddings
from tests.training import tiny_config
from ucdr_ray import cli
from ucdr_ray.catalog import Catalog
from ucdr_ray.engine import build_encoder
from ucdr_ray.evaluation.features import embed_domain, embed_domains, read_domain
from ucdr_ray.evaluation.protocols import evaluate_pairs
from ucdr_ray.run import Run, begin
from ucdr_ray.tracking import Tracker, resolve_uri

BACKBONE = "random:resnet-mini"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    return ingest(root / "catalog", small_tree(root / "images", per_class=5))


@pytest.fixture(scope="module")
def run(catalog, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config()
    opened = Run(folder)
    folder.mkdir()
    begin(opened, config, catalog, resume=False)
    build_encoder(config).save(opened.encoder)
    opened.add_metrics({"epoch": 1, "stage": "instance", "loss": 1.0, "seconds": 2.0, "images_per_s": 10.0})
    opened.update(status="finished")
    return folder


def evaluate(*arguments):
    return cli.run(["evaluate", *(str(argument) for argument in arguments)])


def test_the_json_is_the_contract(catalog, tmp_path, capsys):
    file = tmp_path / "out.json"
    assert (
        evaluate(
            "--catalog", catalog.path, "--backbone", BACKBONE, "--size", 32, "--k", "10,1", "--json", file
        )
        == 0
    )
    result = json.loads(file.read_text())
    assert list(result["pairs"]) == ["photo->sketch", "sketch->photo"]
    for metric in ("map@all", "precision@1", "precision@10", "capped_precision@10"):
        values = [pair[metric] for pair in result["pairs"].values()]
        assert all(0 <= value <= 1 for value in values)
        assert result["mean"][metric] == pytest.approx(np.mean(values))
    assert result["model"]["size"] == 32
    assert result["catalog"]["fingerprint"] == catalog.fingerprint
    assert f"{100 * result['mean']['map@all']:.2f}" in capsys.readouterr().out


def test_standard_output_holds_nothing_but_the_json(catalog, capsys):
    arguments = ("--catalog", catalog.path, "--backbone", BACKBONE, "--size", 32, "--json", "-")
    assert evaluate(*arguments) == 0
    plain = json.loads(capsys.readouterr().out)
    assert evaluate(*arguments, "--centred") == 0
    centred = json.loads(capsys.readouterr().out)
    assert (plain["centred"], centred["centred"]) == (False, True)


def test_a_run_is_its_encoder_and_embeddings_are_its_vectors(catalog, run, capsys, tmp_path):
    assert evaluate("--catalog", catalog.path, "--run", run, "--json", "-") == 0
    by_run = json.loads(capsys.readouterr().out)
    encoder = build_encoder(tiny_config())
    assert by_run["pairs"] == evaluate_pairs(embed_domains(encoder, catalog, ["photo", "sketch"]))["pairs"]
    made = make_embeddings(tmp_path / "embeddings", catalog)
    assert evaluate("--catalog", catalog.path, "--embeddings", made.path, "--json", "-") == 0
    by_vectors = json.loads(capsys.readouterr().out)
    domains = {name: read_domain(made, catalog, name) for name in ("photo", "sketch")}
    assert by_vectors["pairs"] == evaluate_pairs(domains)["pairs"]


def test_vectors_are_in_slot_order_whatever_the_batch(catalog):
    encoder = build_encoder(tiny_config())
    whole, single = (embed_domain(encoder, catalog, "photo", batch) for batch in (128, 3))
    np.testing.assert_allclose(whole.vectors, single.vectors, atol=1e-5)
    assert whole.ids == catalog.read("photo", ["id"])["id"].to_pylist()
    assert whole.labels == ["cat"] * 5 + ["dog"] * 5


def test_a_tracked_run_gets_the_metrics(catalog, run, capsys):
    uri = resolve_uri(None, run)
    with Tracker.start(uri, "run", run) as tracker:
        run_id = tracker.run_id

    Run(run).update(mlflow_run_id=run_id, mlflow_uri=uri)
    assert evaluate("--catalog", catalog.path, "--run", run, "--k", "1", "--json", "-", "--mlflow") == 0
    result = json.loads(capsys.readouterr().out)
    from mlflow import MlflowClient

    logged = MlflowClient(tracking_uri=uri).get_run(run_id).data.metrics
    assert logged["eval/mean/map_at_all"] == pytest.approx(result["mean"]["map@all"])
    assert "eval/photo_to_sketch/precision_at_1" in logged


def test_centred_metrics_have_names_of_their_own(catalog, run):
    uri = resolve_uri(None, run)
    with Tracker.start(uri, "run", run) as tracker:
        Run(run).update(mlflow_run_id=tracker.run_id, mlflow_uri=uri)
    for centred in ([], ["--centred"]):
        assert evaluate("--catalog", catalog.path, "--run", run, "--mlflow", *centred) == 0
    from mlflow import MlflowClient

    logged = MlflowClient(tracking_uri=uri).get_run(tracker.run_id).data.metrics
    assert {"eval/mean/map_at_all", "eval_centred/mean/map_at_all"} <= logged.keys()


def test_an_untracked_run_is_refused_before_anything_is_computed(catalog, run, capsys, monkeypatch):
    Run(run).update(mlflow_run_id=None)
    monkeypatch.setattr("ucdr_ray.evaluation.features.embed_domains", lambda *_: pytest.fail("embedded"))
    assert evaluate("--catalog", catalog.path, "--run", run, "--mlflow") == 2
    assert "was not tracked" in capsys.readouterr().err


def test_a_store_that_is_gone_does_not_cost_the_evaluation(catalog, run, tmp_path, capsys):
    copied = Run(shutil.copytree(run, tmp_path / "run"))
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    copied.update(mlflow_run_id="0" * 32, mlflow_uri=f"sqlite:///{tmp_path}/broken.db")
    file = tmp_path / "out.json"
    assert evaluate("--catalog", catalog.path, "--run", copied.path, "--mlflow", "--json", file) == 2
    said = capsys.readouterr()
    assert "does not answer" in said.err and "mean" in said.out
    assert json.loads(file.read_text())["mean"]["map@all"] > 0


def test_a_report_is_written_whole(catalog, run, tmp_path, capsys):
    assert cli.run(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Mean map@all is" in page
    assert "1 epochs in 2 s" in page
    assert "k_cross: 3" in page  # the configuration
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out


def test_a_catalog_without_labels_is_reported_and_not_evaluated(run, tmp_path, capsys):
    bare = ingest(tmp_path / "catalog", small_tree(tmp_path / "images"), labels="none")
    assert evaluate("--catalog", bare.path, "--run", run) == 2
    assert "has no labels" in capsys.readouterr().err
    page = tmp_path / "report.html"
    assert cli.run(["report", str(run), "--catalog", str(bare.path), "--out", str(page)]) == 0
    assert "nothing here is counted as right or wrong" in page.read_text(encoding="utf-8")


def test_embeddings_of_another_encoder_are_no_after(catalog, run, tmp_path, capsys):
    made = make_embeddings(tmp_path / "embeddings", catalog)
    assert cli.run(["report", str(run), "--embeddings", str(made.path)]) == 2
    assert "made by another encoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --run RUN, --backbone FOLDER and --embeddings EMBEDDINGS"),
        (["--backbone", BACKBONE, "--run", "x"], "exactly one of"),
        (["--run", "x", "--size", "32"], "--size goes with --backbone"),
        (["--backbone", BACKBONE, "--mlflow"], "--mlflow goes with --run"),
        (["--backbone", BACKBONE, "--k", "1,0"], "--k 1,0: allowed are whole numbers from 1"),
        (["--backbone", BACKBONE, "--k", "ten"], "--k ten"),
        (["--backbone", BACKBONE, "--domains", "photo,clipart"], "no domain 'clipart'"),
        (["--backbone", BACKBONE, "--domains", "photo,photo"], "named twice"),
        (["--backbone", BACKBONE, "--domains", "photo"], "at least 2; got photo"),
        (["--run", "nowhere"], "no encoder at nowhere"),
        (["--embeddings", "nowhere"], "no embeddings manifest at nowhere"),
    ],
)
def test_a_wrong_call_is_one_line(catalog, arguments, message, capsys):
    assert evaluate("--catalog", catalog.path, *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error


def test_a_domain_without_labels_is_said_before_anything_is_embedded(tmp_path, capsys):
    root = small_tree(tmp_path / "images")
    bare = ingest(tmp_path / "bare", root, labels="none")
    assert evaluate("--catalog", bare.path, "--backbone", BACKBONE) == 2
    assert capsys.readouterr().err.strip().endswith("has no labels, and only labels say what is right")


def test_embeddings_of_another_catalog_are_refused(catalog, tmp_path, capsys):
    other = ingest(tmp_path / "other", small_tree(tmp_path / "images", per_class=2))
    made = make_embeddings(tmp_path / "embeddings", other)
    assert evaluate("--catalog", catalog.path, "--embeddings", made.path) == 2
    assert "was made from another catalog" in capsys.readouterr().err


def test_a_damaged_catalog_is_not_evaluated(tmp_path, capsys):
    made = ingest(tmp_path / "catalog", small_tree(tmp_path / "images"))
    part = next(made.path.glob("images/*/part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert evaluate("--catalog", made.path, "--backbone", BACKBONE) == 2
    assert part.name in capsys.readouterr().err
    assert Catalog.open(made.path, verify=False).domains


def test_whether_it_is_told_that_a_gallery_lacks_something(catalog, tmp_path, capsys):
    made = make_embeddings(tmp_path / "embeddings", catalog)
    words = ["--catalog", catalog.path, "--embeddings", made.path, "--null"]
    assert evaluate(*words, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["open_set"]) == {"photo->sketch", "sketch->photo"}
    for pair in found["open_set"].values():
        assert set(pair) == {"prototypes", "distances", "merged", "curve"}
        assert all(0 <= share["all"] <= 1 for share in pair["curve"].values())
    assert evaluate(*words) == 0
    assert "nothing here matches: right answers" in capsys.readouterr().out
    assert evaluate(*words[:-1], "--json", "-") == 0
    assert "open_set" not in json.loads(capsys.readouterr().out)
