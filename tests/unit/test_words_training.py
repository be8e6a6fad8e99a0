"""`ucdr train --method tki`: from a list of words to an encoder, at the command line."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file

from ucdr_ray.cli import run
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.small_clip import save_clip, small_clip

WORDS = ["cat", "tree", "house", "car"]
SHORT = {"method.stages.expansion": 3, "method.stages.aggregation": 4, "method.domains": 3}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "small"
    save_clip(*small_clip(["a", "style", "of", *WORDS]), out)
    return out


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text("\n".join(WORDS) + "\n\n")
    return file


def train(clip: Path, out: Path, *more: object, **changed: object) -> int:
    settings = {"model.backbone": str(clip), "tracking.enabled": False} | SHORT | changed
    pairs = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return run(["train", "--method", "tki", "--out", str(out), *map(str, more), *pairs])


def test_words_become_an_encoder(clip: Path, words: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(clip, out, "--words", words, "--json", tmp_path / "told.json") == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["metrics"]["epoch"] == 7 and told["metrics"]["stage"] == "aggregation"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["expansion"] * 3 + ["aggregation"] * 4
    assert {"loss_max", "loss_min", "prompts_per_s"} <= rows[0].keys() and "loss_agg" in rows[-1]
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["size"] == 64  # the CLIP's own
    encoder = Encoder.load(out / "encoder")
    assert encoder.reads_text and encoder.size == 64
    found = load_file(out / "words.safetensors")
    assert found["prompts"].shape == (3, 4, 128)
    # The encoder's projection is the one that was trained.
    with torch.no_grad():
        together = encoder.head(found["prompts"].flatten(0, 1)).view(3, 4, -1)
    assert (together[0] * together[1]).sum(1).mean() > (together[0] * together[1].roll(1, 0)).sum(1).mean()


def test_the_same_seed_gives_the_same_encoder(clip: Path, words: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert train(clip, tmp_path / name, "--words", words) == 0
    one, two = (Encoder.load(tmp_path / name / "encoder").fingerprint for name in ("one", "two"))
    assert one == two


def test_a_finished_run_stays_and_an_interrupted_one_begins_anew(
    clip: Path,
    words: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ucdr_ray.commands.words_training as job

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(job, "aggregate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train(clip, out, "--words", words)
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert not (out / "encoder").exists()
    assert train(clip, out, "--words", words) == 2
    assert "add --resume" in capsys.readouterr().err
    assert train(clip, out, "--words", words, "--resume") == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 7
    before = (out / "encoder" / "encoder.safetensors").stat().st_mtime_ns
    assert train(clip, out, "--words", words, "--resume") == 0
    assert (out / "encoder" / "encoder.safetensors").stat().st_mtime_ns == before
    words.write_text("dog\ncat\n")
    assert train(clip, out, "--words", words, "--resume") == 2
    assert "another config (method.words" in capsys.readouterr().err


def test_it_is_tracked(clip: Path, words: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    changed = {"tracking.enabled": True, "tracking.uri": uri}
    assert train(clip, tmp_path / "run", "--words", words, **changed) == 0
    run_id = json.loads((tmp_path / "run" / "run.json").read_text())["mlflow_run_id"]
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run_id, "loss_agg")] == [4, 5, 6, 7]


def test_refusals(clip: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, same, bad = (tmp_path / name for name in ("empty", "same", "bad"))
    empty.write_text("\n \n")
    same.write_text("cat\nCAT\n")
    bad.write_bytes(b"\xff\xfe")
    out = tmp_path / "run"
    for more, changed, message in (
        (["--words", empty], {}, "0 words; allowed: 2 to"),
        (["--words", same], {}, "'cat' and 'CAT' are the same to CLIP"),
        (["--words", bad], {}, "not UTF-8"),
        (["--words", tmp_path / "none"], {}, "No such file"),
        ([], {}, "method.words has 0 words"),
        (["--words", words], {"method.domains": 0}, "method.domains"),
        (
            ["--words", words],
            {"model.backbone": "random:resnet-mini"},
            "is a resnet; allowed with method tki",
        ),
        (["--words", words], {"model.backbone": tmp_path}, "can't be loaded"),
        (["--words", words], {"train.batch": 3}, "train.batch=3 with method.name=tki, which trains on words"),
        (["--words", words], {"augment.crop_min": 0.5}, "augment.crop_min=0.5 with method.name=tki"),
        (["--words", words, "--catalog", tmp_path], {}, "method tki reads no images"),
    ):
        assert train(clip, out, *more, **changed) == 2, message
        said = capsys.readouterr().err.strip()
        assert message in said and "\n" not in said
        assert not out.exists()
    assert run(["train", "--method", "uem", "--out", str(out)]) == 2
    assert "--catalog: missing; method uem trains on images" in capsys.readouterr().err
