"""`ucdr train` with DUDE: latents made by the way, a frozen generator in every worker."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.generators import generator, save
from tests.tiny import make_catalog
from tests.training import DUDE, dude_config, tensors, train_alone
from ucdr_ray.catalog import Catalog
from ucdr_ray.cli import run as ucdr
from ucdr_ray.cluster.latents import settings
from ucdr_ray.cluster.training_latents import wanted_latents
from ucdr_ray.decoded import decode as decode_spans
from ucdr_ray.decoded import spans
from ucdr_ray.engine import Trainer
from ucdr_ray.evaluation.content_probes import probed_on
from ucdr_ray.evaluation.features import untrained
from ucdr_ray.images import decode
from ucdr_ray.latents import Latents
from ucdr_ray.methods.dude import start_content
from ucdr_ray.models.content import content_encoder, load_content
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.generator_files import load_generator
from ucdr_ray.streaming import StreamFeed

pytestmark = pytest.mark.usefixtures("ray_session")

ONLY_WARM_UP = [f"method.stages.{stage}=0" for stage in ("in_domain", "cross_domain")]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_catalog(folder / "catalog", {"photo": 20, "sketch": 13})
    save(generator(), folder / "model")
    return folder


def arguments(world: Path, out: Path, *settings: str) -> list[str]:
    words = ["tracking.enabled=false", "train.threads=1", f"method.generator={world / 'model'}", *settings]
    options = [word for setting in (*DUDE, *words) for word in ("--set", setting)]
    where = ["--catalog", str(world / "catalog"), "--out", str(out), "--json", str(out.with_suffix(".json"))]
    return ["train", *where, *options]


@pytest.fixture
def train(world, capfd):
    """Run the verb; gives exit code, standard output and standard error."""
    return lambda out, *settings: (ucdr(arguments(world, out, *settings)), *capfd.readouterr())


@pytest.fixture(scope="module")
def run(world) -> Path:
    """A finished run on two workers."""
    out = world / "run"
    assert ucdr(arguments(world, out, "train.workers=2", "bank.shards=0")) == 0
    return out


def logged(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_two_workers_give_what_one_process_gives(world, tmp_path, run):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict] = []
    trainers: list[Trainer] = []

    def on_epoch(metrics: dict, trainer: Trainer) -> None:
        rows.append(metrics)
        trainers.append(trainer)

    catalog = Catalog.open(world / "catalog")
    expected = train_alone(catalog, tmp_path / "alone", [], on_epoch, dude_config)
    torch.set_num_threads(before)
    for name, value in tensors(run).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
    saved, extras = load_content(run / "content"), trainers[-1].method.extras()
    for name, value in extras["content"].state_dict().items():
        torch.testing.assert_close(saved.word.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(saved.style.words, extras["style"].words, rtol=1e-3, atol=1e-4)
    assert [row["stage"] for row in logged(run)] == ["warm_up"] * 2 + ["in_domain"] + ["cross_domain"] * 2
    for found, row in zip(logged(run), rows, strict=True):
        assert found["loss_od"] == pytest.approx(row["loss_od"], rel=1e-3)
    assert json.loads((world / "run.json").read_text())["metrics"] == logged(run)[-1]
    (latents,) = (world / "catalog.latents").iterdir()
    Latents.open(latents).check(catalog, settings(str(world / "model")))


def test_streamed_images_bring_their_latents(world, tmp_path, train, run):
    """Ray's stream against the same windows read in this process, of latents read whole."""
    settings = ["data.residency=stream", "train.batch=4", "train.workers=0", *ONLY_WARM_UP]
    code, _, err = train(tmp_path / "run", *settings)
    assert code == 0, err
    config = dude_config(settings)
    (folder,) = (world / "catalog.latents").iterdir()
    latents, catalog = Latents.open(folder), Catalog.open(world / "catalog")
    parts = {domain.name: domain.parts for domain in latents.manifest.domains}
    whole = {name: np.concatenate([latents.part(part) for part in parts[name]]) for name in parts}
    where = {span.file: name for name in parts for span in spans(catalog, name)}

    def read(windows, wanted):
        for window in windows:
            stored = np.concatenate([whole[where[span.file]][span.slots] for span in window])
            pixels = decode_spans(window, 32, "squash")
            yield (pixels, stored) if wanted else (pixels,)

    domains = [(domain.name, domain.images) for domain in catalog.domains]
    feed = StreamFeed(catalog, list(parts), read, 32, 4, 0, latents=True)
    rows: list[dict] = []
    Trainer(config, domains, feed, generator=generator()).run(None, lambda metrics, _: rows.append(metrics))
    for found, row in zip(logged(tmp_path / "run"), rows, strict=True):
        assert found["loss_od"] == pytest.approx(row["loss_od"], rel=1e-5)


def test_a_run_is_shown_on_a_page_and_in_its_report(world, tmp_path, run, capfd):
    page = tmp_path / "page.png"
    assert ucdr(["disentangle", str(run), "--images", "2", "--out", str(page), "--json", "-"]) == 0
    probes = json.loads(capfd.readouterr().out)
    catalog, config = Catalog.open(world / "catalog"), dude_config([])
    start, end, made = untrained(config), Encoder.load(run / "encoder"), load_content(run / "content")
    encoders = {
        "embedding": (start, end),
        "content": (
            content_encoder(start, start_content(load_generator(made.generator), start, config.train.seed)),
            content_encoder(end, made.word),
        ),
    }
    for of, pair in encoders.items():
        for when, encoder in zip(("before", "after"), pair, strict=True):
            expected = probed_on(encoder, catalog, ["photo", "sketch"])
            assert probes[of][when] == {"domain": pytest.approx(expected.domain), "object": None}  # no labels
    assert decode(page.read_bytes()).size > (300, 400)
    assert ucdr(["report", str(run)]) == 0
    assert "What [z] says" in (run / "report.html").read_text()
    assert ucdr(["report", str(run), "--no-disentangle", "--out", str(tmp_path / "short.html")]) == 0
    assert "What [z] says" not in (tmp_path / "short.html").read_text()


def test_another_teacher_is_refused(world, tmp_path, run, capfd):
    """One that stands in the place of the one that taught the run, and is of the same form."""
    words = arguments(world, run, "train.workers=2", "bank.shards=0")
    kept = (world / "model").rename(world / "kept")
    try:
        save(generator(seed=1), world / "model")
        assert ucdr([*words, "--resume"]) == 2
        assert "taught by another generator" in capfd.readouterr().err
        assert ucdr(["disentangle", str(run), "--out", str(tmp_path / "page.png")]) == 2
        assert "not the one that taught the run" in capfd.readouterr().err
    finally:
        shutil.rmtree(world / "model")
        kept.rename(world / "model")
    assert ucdr([*words, "--resume"]) == 0


def test_styles_may_be_told_of_domains_that_are_left_out(world):
    catalog = Catalog.open(world / "catalog")
    config = dude_config([f"method.generator={world / 'model'}", "method.styles={sketch: pencil drawing}"])
    assert wanted_latents(config, catalog, ["photo"], untrained(config)) is not None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.generator=/no/model", "generator /no/model: is not on this machine"),
        ("method.styles={paper: photo}", "names 'paper'; the catalog's domains are photo, sketch"),
        ("method.fixed_style=photo", "fixed_style=photo with style_tokens=tuned"),
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
