"""The training loop: stages, schedule, memory, and above all that stopping and resuming changes nothing."""

import math

import numpy as np
import pytest
import torch

from tests.tiny import make_catalog
from tests.training import dude_config, state, tiny_config, train_alone, trainer
from ucdr_ray.engine import Trainer, build_encoder, pick_device
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.feed import ResidentFeed


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("engine") / "catalog", {"one": 1, "photo": 21, "sketch": 17})


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other on images this small
    yield
    torch.set_num_threads(threads)


class Stopped(Exception):
    pass


def stop_after(epoch):
    def on_epoch(metrics, _):
        if metrics["epoch"] == epoch:
            raise Stopped

    return on_epoch


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_by_bit(tmp_path, catalog, optimizer, stop):
    config = tiny_config([
        f"train.optimizer={optimizer}", "train.lr=0.003", "train.checkpoint_every=2", "model.batch_norm=train",
        "method.refresh=true", "method.centre=true", "method.max_negatives=12", "train.warmup_epochs=1.5",
    ])  # fmt: skip
    torch.manual_seed(1)
    whole = trainer(catalog, config)
    whole.run(None, lambda *_: None)
    expected = state(whole)

    torch.manual_seed(1)
    with pytest.raises(Stopped):
        trainer(catalog, config).run(tmp_path, stop_after(stop))
    torch.manual_seed(2)
    again = trainer(catalog, config)
    assert again.resume(tmp_path) == (stop > 2)  # a checkpoint comes after epoch 2, and after stages: 2, 3, 5
    if stop > 2:
        assert again.epoch == {3: 2, 4: 3}[stop]
    else:
        torch.manual_seed(1)
    again.run(tmp_path, lambda *_: None)
    found = state(again)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_resumed_run_with_a_generator_equals_the_uninterrupted_one(tmp_path, catalog, stop):
    config = dude_config(["train.optimizer=adamw", "train.lr=0.003", "method.od_every=2"])
    torch.manual_seed(1)
    whole = trainer(catalog, config)
    rows = []
    whole.run(None, lambda metrics, _: rows.append(metrics))
    assert [row["stage"] for row in rows] == ["warm_up"] * 2 + ["in_domain"] + ["cross_domain"] * 2
    assert ["loss_aug" in row for row in rows] == [False, False, True, True, True]
    assert all(row["loss_od"] > 0 for row in rows)

    torch.manual_seed(1)
    with pytest.raises(Stopped):
        trainer(catalog, config).run(tmp_path, stop_after(stop))
    again = trainer(catalog, config)
    assert again.resume(tmp_path) == (stop > 1)
    if stop == 1:
        torch.manual_seed(1)
    again.run(tmp_path, lambda *_: None)
    expected, found = state(whole), state(again)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_keys_begin_as_the_encoder_is_when_the_warm_up_ends(catalog):
    made = trainer(catalog, dude_config(["method.momentum=0.999"]))
    seen = []

    def on_epoch(metrics, trained):
        seen.append([bank.filled.any().item() for bank in trained.memory.banks])

    fill = made.fill_memory

    def filled():
        ours, theirs = made.method.encoder.state_dict(), made.method.target.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        fill()

    made.fill_memory = filled
    made.run(None, on_epoch)
    assert seen[:3] == [[False] * 3, [False] * 3, [True] * 3]


def test_stages_losses_and_schedule(tmp_path, catalog):
    rows = []
    train_alone(catalog, tmp_path, ["train.warmup_epochs=1"], lambda metrics, _: rows.append(metrics))
    assert [row["stage"] for row in rows] == ["instance"] * 2 + ["in_domain"] + ["cross_domain"] * 2
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert ["loss_in" in row for row in rows] == [False, False, True, True, True]
    assert ["loss_cross" in row for row in rows] == [False, False, False, True, True]
    for row in rows:
        terms = sum(value for name, value in row.items() if name.startswith("loss_"))
        assert math.isclose(row["loss"], terms, rel_tol=1e-5) and row["images_per_s"] > 0
    assert rows[-1].keys() >= {
        "share/photo->sketch",
        "share/sketch->photo",
        "degree/one->photo",
        "share/photo->photo",
    }
    assert rows[0]["lr"] < rows[1]["lr"] > rows[2]["lr"] > rows[4]["lr"] > 0
    assert rows[-1]["loss_aug"] < rows[0]["loss_aug"]


def test_the_bank_is_full_after_the_first_sweep_and_holds_plain_keys(catalog):
    one = trainer(catalog, tiny_config())
    one.fill_memory()
    assert all(bank.filled.all() for bank in one.memory.banks)
    images = next(one.feed.sweep())
    # At the start the target equals the encoder.
    keys = one.method.encoder.eval()(images.pixels.float() / 255)
    for key, domain, slot in zip(keys, images.domain, images.slot):
        assert torch.allclose(one.memory.banks[domain].keys[slot], key, atol=1e-6)


def test_k_and_batch_beyond_every_domain(tmp_path, catalog):
    huge = train_alone(catalog, tmp_path, ["method.k_in=900", "method.k_cross=900", "train.batch=64"])
    assert all(torch.isfinite(value).all() for value in huge.values())


def test_a_checkpoint_of_another_config_is_refused(tmp_path, catalog):
    train_alone(catalog, tmp_path)
    other = trainer(catalog, tiny_config(["train.lr=0.02"]))
    with pytest.raises(UserError, match="made with another config"):
        other.resume(tmp_path / "checkpoints")
    placed = trainer(
        catalog, tiny_config(["train.workers=3", "train.max_failures=0", "tracking.enabled=false"])
    )
    assert placed.resume(tmp_path / "checkpoints") and placed.epoch == 5


def test_a_loss_that_is_not_finite_stops_the_run(catalog):
    config = tiny_config(["train.lr=1e30"])
    with pytest.raises(JobError, match=r"the loss became (nan|inf) in epoch \d: lower train.lr"):
        trainer(catalog, config).run(None, lambda *_: None)


def test_the_same_seed_gives_the_same_weights():
    one, same, other = (build_encoder(tiny_config([f"train.seed={seed}"])).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_stored_images_larger_than_the_crops(catalog):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (9, 3, 48, 48), dtype=np.uint8) for _ in range(2)]
    config = tiny_config(["data.stored_size=48"])
    one = Trainer(config, [("a", 9), ("b", 9)], ResidentFeed(arrays, 8, 0))
    rows = []
    one.run(None, lambda metrics, _: rows.append(metrics))
    assert len(rows) == 5


def test_cuda_is_asked_for_and_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="train.device=cuda"):
        pick_device(tiny_config(["train.device=cuda"]).train)
    with pytest.raises(UserError, match="train.precision=bfloat16: .* allowed here: float32"):
        pick_device(tiny_config(["train.precision=bfloat16"]).train)
    assert pick_device(tiny_config().train) == torch.device("cpu")
