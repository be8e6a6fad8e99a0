import numpy as np
import pytest
import torch

from ucdr_ray.checkpoint import checkpoints
from ucdr_ray.config import load_config
from ucdr_ray.engine import Trainer
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.feed import ResidentFeed

SMALL = [
    "data.size=32", "model.backbone=random:resnet-mini", "model.head_hidden=16", "model.dim=8", "train.batch=6",
    "train.optimizer=adamw", "train.lr=1e-3", "method.k_in=3", "method.k_cross=3", "method.momentum=0.9",
    "method.stages.instance=1", "method.stages.in_domain=2", "method.stages.cross_domain=2",
    "train.checkpoint_every=1", "train.keep_checkpoints=9", "train.device=cpu",
]  # fmt: skip
SIZES = (14, 9)


def trainer(*overrides, sizes=SIZES):
    config = load_config(None, [*SMALL, *overrides])
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for n in sizes]
    feed = ResidentFeed(arrays, config.train.batch, config.train.seed)
    return Trainer(config, [(f"d{i}", n) for i, n in enumerate(sizes)], feed)


def everything(t):
    state = {f"encoder.{k}": v for k, v in t.method.encoder.state_dict().items()}
    state |= {f"target.{k}": v for k, v in t.method.target.state_dict().items()}
    state |= {f"memory.{k}": v for k, v in t.memory.state_dict().items()}
    for index, values in t.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{k}": v for k, v in values.items()}
    return state


def assert_equal(a, b):
    left, right = everything(a), everything(b)
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


@pytest.mark.parametrize("overrides", [[], ["model.batch_norm=train", "method.refresh=true", "train.optimizer=sgd"]])
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, overrides, stop):
    whole = trainer(*overrides)
    whole.run(None, lambda metrics, t: None)

    def interrupt(metrics, t):
        if metrics["epoch"] == stop + 1:
            raise KeyboardInterrupt

    first = trainer(*overrides)
    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path, interrupt)
    second = trainer(*overrides)
    assert second.resume(tmp_path) and second.epoch == stop
    second.run(tmp_path, lambda metrics, t: None)
    assert_equal(whole, second)


def test_stages_log_their_terms_and_sparsity():
    rows = []
    trainer().run(None, lambda metrics, t: rows.append(metrics))
    assert [row["stage"] for row in rows] == ["instance"] + ["in_domain"] * 2 + ["cross_domain"] * 2
    assert "loss_in" not in rows[0] and "loss_cross" not in rows[1] and "loss_cross" in rows[4]
    assert rows[2]["share/d0->d0"] > 0 and "share/d0->d1" not in rows[2] and rows[4]["share/d0->d1"] > 0
    assert rows[-1]["lr"] < rows[0]["lr"]
    assert all(row["images_per_s"] > 0 for row in rows)


def test_training_lowers_the_instance_loss():
    rows = []
    t = trainer("method.stages.instance=25", "method.stages.in_domain=0", "method.stages.cross_domain=0",
                "train.lr=3e-3")  # fmt: skip
    t.run(None, lambda metrics, _: rows.append(metrics["loss"]))
    assert rows[-1] < 0.8 * rows[0]


def test_another_config_is_refused(tmp_path):
    trainer().run(tmp_path, lambda metrics, t: None)
    with pytest.raises(UserError, match="made with another config"):
        trainer("method.k_in=4").resume(tmp_path)
    assert trainer("train.threads=2", "tracking.enabled=false").resume(tmp_path), "what changes no weight may change"


def test_no_checkpoint_no_resume(tmp_path):
    assert trainer().resume(tmp_path) is False


def test_domains_of_one_image_and_k_larger_than_a_domain():
    rows = []
    trainer("method.k_in=500", "method.k_cross=500", sizes=(1, 3)).run(None, lambda metrics, t: rows.append(metrics))
    assert rows[-1]["share/d0->d0"] == 0 and rows[-1]["degree/d0->d1"] == 3


def test_a_loss_that_explodes_stops_the_job(tmp_path):
    with pytest.raises(JobError, match=r"lower train\.lr"):
        trainer("train.lr=1e30", "train.optimizer=sgd").run(tmp_path, lambda metrics, t: None)
    assert checkpoints(tmp_path) == [], "nothing of it is trusted later"


def test_stage_ends_are_always_kept(tmp_path):
    trainer("train.checkpoint_every=100").run(tmp_path, lambda metrics, t: None)
    assert len(checkpoints(tmp_path)) == 3
