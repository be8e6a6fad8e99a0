"""`ucdr train` with DUDE: latents made by the way, a frozen generator in every worker."""

import json
from pathlib import Path

import pytest
import torch

from tests.generators import generator, save
from tests.tiny import make_catalog
from tests.training import DUDE, dude_config, tensors, train_alone
from ucdr_ray.catalog import Catalog
from ucdr_ray.cli import run as ucdr
from ucdr_ray.cluster.latents import settings
from ucdr_ray.images import decode
from ucdr_ray.latents import Latents

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_catalog(folder / "catalog", {"photo": 20, "sketch": 13})
    save(generator(), folder / "model")
    return folder


@pytest.fixture
def train(world, capfd):
    """Run the verb; gives exit code, standard output and standard error."""

    def call(out: Path, *settings: str):
        words = [
            "tracking.enabled=false",
            "train.threads=1",
            f"method.generator={world / 'model'}",
            *settings,
        ]
        options = [word for setting in (*DUDE, *words) for word in ("--set", setting)]
        where = ["--catalog", str(world / "catalog"), "--out", str(out), "--json", "-"]
        return ucdr(["train", *where, *options]), *capfd.readouterr()

    return call


@pytest.mark.timeout(600)  # two minutes alone; beside other work much more
def test_two_workers_give_what_one_process_gives(world, tmp_path, train, capfd):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    code, out, err = train(tmp_path / "run", "train.workers=2", "bank.shards=0")
    assert code == 0, err
    rows: list[dict] = []
    catalog = Catalog.open(world / "catalog")
    expected = train_alone(
        catalog, tmp_path / "alone", [], lambda metrics, _: rows.append(metrics), dude_config
    )
    torch.set_num_threads(before)
    for name, value in tensors(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in logged] == ["warm_up"] * 2 + ["in_domain"] + ["cross_domain"] * 2
    for found, row in zip(logged, rows, strict=True):
        assert found["loss_od"] == pytest.approx(row["loss_od"], rel=1e-3)
    assert json.loads(out)["metrics"] == logged[-1]

    (latents,) = (world / "catalog.latents").iterdir()
    Latents.open(latents).check(catalog, settings(str(world / "model")))

    page = tmp_path / "page.png"
    assert (
        ucdr(["disentangle", str(tmp_path / "run"), "--images", "2", "--out", str(page), "--json", "-"]) == 0
    )
    probes = json.loads(capfd.readouterr().out)
    for of in ("embedding", "content"):
        assert 0 <= probes[of]["after"]["domain"] <= 1
        assert probes[of]["after"]["object"] is None  # without labels
    assert decode(page.read_bytes()).size > (300, 400)
    assert ucdr(["report", str(tmp_path / "run")]) == 0
    assert "What [z] says" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.generator=/no/model", "generator /no/model: is not on this machine"),
        ("method.styles={paper: photo}", "method.styles names 'paper'; the domains are photo, sketch"),
        ("method.generator_size=17", "size=17: generator"),
        ("method.latents=/no/latents", "no latents manifest at /no/latents/manifest.json"),
        ("method.weight_od=0", "stages.warm_up=2 with weight_od=0"),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_nothing(tmp_path, train, setting, message):
    code, _, err = train(tmp_path / "run", setting)
    assert code == 2
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()
