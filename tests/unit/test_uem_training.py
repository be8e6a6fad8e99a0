"""UEM in the training loop: it ends, it resumes to the bit, and two workers do what one does."""

import math
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from tests.tiny import make_catalog
from tests.training import state, trainer, uem_config
from ucdr_ray.catalog import Catalog
from ucdr_ray.engine import Metrics, Trainer

STABLE = ["method.switch=stable", "method.stable_at=0", "method.stable_from=0", "method.stable_for=1"]

# Steps so small that what the order of sums changes does not grow until images change their clusters.
EVEN = ["method.reduction=mean", "train.lr=0.0003"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("uem") / "catalog", {"one": 1, "photo": 44, "sketch": 31})


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stopped(Exception):
    pass


def train(trained: Trainer, folder: Path | None = None, stop: int = 99) -> list[Metrics]:
    rows: list[Metrics] = []

    def on_epoch(metrics: Metrics, _: Trainer) -> None:
        rows.append(metrics)
        if metrics["epoch"] == stop:
            raise Stopped

    with suppress(Stopped):
        trained.run(folder, on_epoch)
    return rows


def test_a_run_trains_both_stages_and_says_what_it_did(catalog) -> None:
    made = trainer(catalog, uem_config())
    rows = train(made)
    assert [row["stage"] for row in rows] == ["idse"] * 3 + ["cdsm"] * 2
    for row in rows:
        terms = {name for name in row if name.startswith("loss_")}
        idse = row["stage"] == "idse"
        assert terms == (
            {"loss_ince", "loss_pnce", "loss_sel"} if idse else {"loss_dal", "loss_spr", "loss_sn2m"}
        )
        assert row.keys() >= {"clusters/photo", "clusters/sketch", "merged/photo->sketch", "images_per_s"}
        assert all(math.isfinite(row[name]) for name in terms)
        assert ("alpha" in row) == idse and ("reliable/photo->sketch" in row) != idse
        assert ("stability/photo" in row) == (row["epoch"] > 1)
        assert idse or 0 <= row["reliable/sketch->photo"] <= 1
    assert all(bank.filled.all() for bank in made.memory.banks)


def test_the_copy_of_the_extractor_stays_as_it_was_statistics_too(catalog) -> None:
    made = trainer(catalog, uem_config(["model.batch_norm=train"]))
    before: dict[str, torch.Tensor] = {}

    def on_epoch(metrics: Metrics, seen: Trainer) -> None:
        now = {name: value.clone() for name, value in seen.method.target.state_dict().items()}
        if metrics["epoch"] == 4:
            before.update(now)
        if metrics["epoch"] == 5:
            assert all(torch.equal(value, before[name]) for name, value in now.items())
            assert not seen.method.target.training and seen.method.online.training

    made.run(None, on_epoch)
    assert any("running_mean" in name for name in before)


def test_images_are_told_apart(catalog) -> None:
    alone = ["method.weight_pnce=0", "method.weight_sel=0", "method.stages={idse: 4, cdsm: 0}"]
    rows = train(trainer(catalog, uem_config([*alone, "train.lr=0.0003"])))
    assert rows[3]["loss_ince"] < 0.9 * rows[0]["loss_ince"]
    assert rows[3]["loss"] == rows[3]["loss_ince"]


@pytest.mark.parametrize("settings", [[], STABLE, ["train.optimizer=adamw", "model.batch_norm=train"]])
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, catalog, settings, stop) -> None:
    config = uem_config(["train.checkpoint_every=1", *settings])
    torch.manual_seed(1)
    whole = trainer(catalog, config)
    train(whole)
    torch.manual_seed(1)
    train(trainer(catalog, config), tmp_path, stop)
    torch.manual_seed(2)
    again = trainer(catalog, config)
    assert again.resume(tmp_path) and again.epoch == stop - 1
    train(again, tmp_path)
    expected, found = state(whole), state(again)
    assert (
        found.keys() == expected.keys() >= {"structure.vectors", "switch.ends", "classifier.layers.0.weight"}
    )
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_stable_prototypes_end_the_first_stage_and_the_second_gets_its_epochs(tmp_path, catalog) -> None:
    made = trainer(catalog, uem_config([*STABLE, "train.checkpoint_every=9"]))
    rows = train(made, tmp_path)
    assert [row["stage"] for row in rows] == ["idse"] * 2 + [
        "cdsm"
    ] * 3  # the first renewal has none before it
    assert int(made.method.extras()["switch"].ends) == 2
    steps = made.feed.steps()
    assert sorted(int(folder.name) for folder in tmp_path.iterdir()) == [
        2 * steps,
        5 * steps,
    ]  # ends of stages
    by_hand = train(trainer(catalog, uem_config(["method.stages={idse: 2, cdsm: 3}"])))
    assert [row["lr"] for row in rows] == [row["lr"] for row in by_hand]
    assert [row["loss"] for row in rows[2:]] != [
        row["loss"] for row in by_hand[2:]
    ]  # alpha has another length


def work(rank: int, catalog: Path, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    for name, stop in (("whole", 99), ("parts", 4), ("parts", 99)):
        torch.manual_seed(0)
        one = trainer(Catalog.open(catalog), uem_config(["train.workers=2", *EVEN]), rank, 2)
        one.resume(out / name)
        train(one, out / name, stop)
    tensors = {name: value.clone().contiguous() for name, value in state(one).items()}
    save_file(tensors, out / f"{rank}.safetensors")
    dist.destroy_process_group()


def test_two_workers_stopped_and_resumed_do_what_one_process_does(tmp_path, catalog) -> None:
    torch.multiprocessing.spawn(work, (catalog.path, tmp_path), nprocs=2)
    one, other = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    torch.manual_seed(0)
    alone = trainer(catalog, uem_config(EVEN))
    train(alone)
    expected = state(alone)
    assert expected.keys() == one.keys() and bool((one["structure.count"][1:] > 1).all())
    for name, value in expected.items():
        torch.testing.assert_close(one[name], value, rtol=1e-3, atol=1e-4)
