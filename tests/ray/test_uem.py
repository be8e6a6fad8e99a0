"""`ucdr train` with UEM: two workers and a bank in shards against one process."""

import json

import pytest
import torch

from tests.tiny import make_catalog
from tests.training import UEM, tensors, train_alone, uem_config
from ucdr_ray.cli import run as ucdr

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("uem") / "catalog", {"one": 1, "photo": 44, "sketch": 31})


def train(catalog, out, *settings):
    words = [
        word for s in (*UEM, "tracking.enabled=false", "train.threads=1", *settings) for word in ("--set", s)
    ]
    return ucdr(["train", "--catalog", str(catalog.path), "--out", str(out), *words])


@pytest.mark.parametrize("copies", [0, 1])
def test_workers_and_shards_make_the_prototypes_and_weights_of_one_process(tmp_path, catalog, copies):
    """With a copy of the rows at each worker, and without."""
    where = ["train.workers=2", "bank.shards=3", f"bank.copy_limit_gb={copies}"]
    assert train(catalog, tmp_path / "run", *where) == 0
    rows = []
    alone = train_alone(catalog, tmp_path / "alone", [], lambda metrics, _: rows.append(metrics), uem_config)
    for name, value in tensors(tmp_path / "run").items():
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-5)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in logged] == ["idse"] * 3 + ["cdsm"] * 2
    for found, expected in zip(logged, rows):
        assert found.keys() == expected.keys()
        for name in found.keys() - {"stage", "images_per_s", "search_seconds", "seconds"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-3), name
