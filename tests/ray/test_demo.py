"""The demo's own steps, small: to its end, and again over what it left."""

import json
from pathlib import Path

import pytest

from tests.training import tiny_config
from ucdr_ray.cli import run as ucdr
from ucdr_ray.config import dump_config

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_demo_runs_to_its_end_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_config(tiny_config(["train.workers=0", "tracking.enabled=false"])))
    out = tmp_path / "demo"
    call = ["demo", "--out", str(out), "--config", str(recipe), "--per-class", "2"]

    assert ucdr(call) == 0
    first = capsys.readouterr()
    weights = (out / "run" / "encoder" / "encoder.safetensors").read_bytes()
    assert "mean capped_precision@10 over all pairs" in first.out
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG")
    assert set(json.loads((out / "after.json").read_text())["mean"]) >= {"map@all", "capped_precision@10"}

    assert ucdr(call) == 0
    assert "mean capped_precision@10 over all pairs" in capsys.readouterr().out
    assert (out / "run" / "encoder" / "encoder.safetensors").read_bytes() == weights

    recipe.write_text(dump_config(tiny_config(["train.workers=0", "tracking.enabled=false", "train.lr=0.5"])))
    assert ucdr(call) == 1  # another recipe: the run that is there is not shown as its result
    assert "another config" in capsys.readouterr().err

    assert ucdr([*call[:-1], "3"]) == 1  # other drawings, the same catalog: said, not mixed
    assert "other inputs" in capsys.readouterr().err
