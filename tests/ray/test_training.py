"""`ucdr train` as it is called: alone, on two workers, streamed, with MLflow, and called wrongly."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.tiny import make_catalog
from tests.training import overrides, tensors, tiny_config, train_alone
from ucdr_ray.catalog import Catalog, Domain, Manifest, Part, fingerprint_of
from ucdr_ray.cli import run as ucdr
from ucdr_ray.decoded import decode
from ucdr_ray.engine import Trainer
from ucdr_ray.files import write_json
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.streaming import StreamFeed

pytestmark = pytest.mark.usefixtures("ray_session")

UNTRACKED = ["tracking.enabled=false", "train.threads=1"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    """Three domains, one of a single image."""
    return make_catalog(
        tmp_path_factory.mktemp("training") / "catalog", {"one": 1, "photo": 30, "sketch": 21}
    )


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what `train.threads=1` gives to Ray's workers
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(capfd):
    """Run the verb; gives exit code, standard output and standard error."""

    def call(catalog, out, *options, settings=()):
        words = [word for s in overrides([*UNTRACKED, *settings]) for word in ("--set", s)]
        code = ucdr(
            [
                "train",
                "--catalog",
                str(getattr(catalog, "path", catalog)),
                "--out",
                str(out),
                *words,
                *options,
            ]
        )
        return code, *capfd.readouterr()

    return call


def test_two_workers_give_what_one_process_gives(tmp_path, catalog, train):
    code, out, err = train(catalog, tmp_path / "run", "--json", "-", settings=["train.workers=2"])
    assert code == 0, err
    rows = []
    alone = train_alone(catalog, tmp_path / "alone", [], lambda metrics, _: rows.append(metrics))
    for name, value in tensors(tmp_path / "run").items():
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-4)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) == len(rows) == 5
    for found, expected in zip(logged, rows):
        assert found.keys() == expected.keys() and found["stage"] == expected["stage"]
        for name in found.keys() - {"stage", "images_per_s", "search_seconds", "seconds"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-3)

    result = json.loads(out)
    assert (result["run"], result["metrics"]) == (str(tmp_path / "run"), logged[-1])
    assert Encoder.load(tmp_path / "run" / "encoder").dim == 16
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert not (tmp_path / "run" / ".ray").exists()
    assert "train: epoch 5/5 cross_domain, loss" in err and "% with neighbours across" in err

    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*") if p.name != ".lock")
    code, _, err = train(catalog, tmp_path / "run", settings=["train.workers=2"])
    assert code == 2 and f"error: {tmp_path / 'run'} holds a finished run" in err
    assert train(catalog, tmp_path / "run", "--resume", settings=["train.workers=0"])[0] == 0
    assert (
        sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*") if p.name != ".lock")
        == before
    )


def test_streamed_on_a_worker_as_streamed_alone(tmp_path, catalog, train, monkeypatch):
    settings = ["data.residency=stream", "train.batch=4"]
    code, _, err = train(catalog, tmp_path / "run", settings=[*settings, "train.workers=1"])
    assert code == 0, err
    config = tiny_config(settings)
    names = [domain.name for domain in catalog.domains]
    feed = StreamFeed(
        catalog, names, lambda windows, _: ((decode(w, 32, "squash"),) for w in windows), 32, 4, 0
    )
    trainer = Trainer(config, [(domain.name, domain.images) for domain in catalog.domains], feed)
    alone = trainer.run(None, lambda *_: None).state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in tensors(tmp_path / "run").items())


def test_stopped_and_resumed_it_is_one_run_in_mlflow(tmp_path, catalog, train, monkeypatch):
    from mlflow import MlflowClient

    tracked = ["tracking.enabled=true", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "train.workers=0"]

    def interrupt(self, root, save=Trainer.save):
        save(self, root)
        if self.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save", interrupt)
    code, _, err = train(catalog, tmp_path / "run", settings=tracked)
    assert (code, err.splitlines()[-1]) == (130, "interrupted")
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["status"] == "interrupted" and not (tmp_path / "run" / "encoder").exists()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(state["mlflow_run_id"]).info.status == "KILLED"

    monkeypatch.undo()
    code, _, err = train(catalog, tmp_path / "run", "--resume", settings=tracked)
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["mlflow_run_id"] == state["mlflow_run_id"]
    logged = client.get_run(state["mlflow_run_id"])
    assert logged.info.status == "FINISHED" and logged.data.params["method.k_cross"] == "3"
    assert logged.data.params["catalog"] == catalog.fingerprint
    for name in ("loss", "loss_aug", "images_per_s", "share/photo_to_sketch"):
        assert name in logged.data.metrics
    history = client.get_metric_history(state["mlflow_run_id"], "loss")
    assert [point.step for point in history] == [1, 2, 3, 4, 5]
    assert {item.path for item in client.list_artifacts(state["mlflow_run_id"])} == {
        "config.yaml",
        "metrics.jsonl",
        "encoder",
    }
    alone = train_alone(catalog, tmp_path / "alone")
    assert all(torch.equal(value, alone[name]) for name, value in tensors(tmp_path / "run").items())


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (["data.domains=[photo, water]"], [], "no domain 'water' in"),
        (["data.domains=[photo]"], [], "training needs at least 2 domains; got photo"),
        (["model.backbone=random:resnet-9"], [], "model.backbone random:resnet-9: unknown"),
        (["model.backbone=/nowhere"], [], "no backbone folder at /nowhere"),
        (["train.device=cuda"], [], "train.device=cuda"),
        (["train.workers=7"], [], "train.workers=7: the cluster has 4 CPUs"),
        (
            ["train.workers=4", "data.residency=stream"],
            [],
            "train.workers=4 with streamed images: the cluster has 4",
        ),
        (["train.wrkers=7"], [], "train.wrkers: unknown field; did you mean workers?"),
        ([], ["--resume"], "--resume: there is no run at"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, catalog, train, settings, options, message):
    code, out, err = train(catalog, tmp_path / "run", *options, settings=settings)
    errors = [line for line in err.splitlines() if not line.startswith("decode")]
    assert (code, out, len(errors)) == (2, "", 1) and message in errors[0], err


def test_a_call_that_came_to_nothing_leaves_its_folder_free(tmp_path, catalog, train):
    tracked = "tracking.enabled=true"
    assert train(catalog, tmp_path / "run", settings=[tracked, "tracking.uri=foo"])[0] == 2
    assert not (tmp_path / "run").exists()
    assert train(catalog, tmp_path / "run", settings=[tracked, "tracking.uri=http://127.0.0.1:9"])[0] == 2
    assert train(catalog, tmp_path / "run", settings=["train.workers=7", "train.lr=0.5"])[0] == 2
    code, _, err = train(catalog, tmp_path / "run", settings=["train.workers=0"])
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_a_damaged_catalog_or_checkpoint_is_one_line(tmp_path, train):
    broken = make_catalog(tmp_path / "c", {"photo": 9, "sketch": 8})
    settings = ["train.workers=0", "method.stages.cross_domain=1"]
    train_alone(broken, tmp_path / "run", [])
    assert train(broken, tmp_path / "new", settings=settings)[0] == 0
    state = json.loads((tmp_path / "new" / "run.json").read_text())
    write_json(tmp_path / "new" / "run.json", state | {"status": "interrupted"})
    newest = sorted((tmp_path / "new" / "checkpoints").iterdir())[-1]
    (newest / "state.safetensors").write_bytes(b"")
    code, _, err = train(broken, tmp_path / "new", "--resume", settings=settings)
    assert code == 2 and err.count("\n") == 1 and "is damaged" in err

    part = broken.path / broken.domains[0].parts[0].file
    part.write_bytes(part.read_bytes()[:-1])
    code, _, err = train(broken, tmp_path / "other", settings=settings)
    assert code == 2 and err.count("\n") == 1 and "damaged catalog" in err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("residency", ["keep", "stream"])
def test_an_image_that_cannot_be_decoded_is_one_line(tmp_path, catalog, train, residency):
    path = tmp_path / "c"
    broken = make_catalog(path, {"photo": 9, "sketch": 8})
    part = broken.domains[0].parts[0]
    table = pq.read_table(path / part.file)
    images = pa.array([b"no image", *table["image"].to_pylist()[1:]], pa.binary())
    pq.write_table(table.set_column(3, table.schema.field("image"), images), path / part.file)
    first, second = broken.domains
    part = Part.of(path, part.file, rows=part.rows, first_slot=0)
    domains = [Domain(**first.model_dump() | {"parts": [part]}), second]
    manifest = Manifest(
        **broken.manifest.model_dump() | {"domains": domains, "fingerprint": fingerprint_of(domains)}
    )
    write_json(path / "manifest.json", manifest.model_dump())

    code, _, err = train(
        broken, tmp_path / "run", settings=[f"data.residency={residency}", "train.workers=1"]
    )
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1 and "Traceback" not in err, err
    assert len(errors) == 1 and "image 0 in" in errors[0] and "not an image" in errors[0]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
