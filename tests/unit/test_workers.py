"""Two workers without Ray: what they must agree on, and that stopping and resuming them changes nothing."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from tests.tiny import make_catalog
from tests.training import state, tiny_config, trainer
from ucdr_ray.catalog import Catalog

SETTINGS = [
    "model.batch_norm=train",
    "method.refresh=true",
    "method.stages.instance=1",
    "method.stages.cross_domain=1",
    "train.lr=0.003",
    "train.workers=2",
]


class Stopped(Exception):
    pass


def work(rank: int, catalog: Path, out: Path) -> None:
    """One worker's part of a whole run, and of one that is stopped and resumed; its states at their ends as files."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)

    def run(folder: Path, name: str, stop: int) -> None:
        def on_epoch(metrics, _) -> None:
            if metrics["epoch"] > stop:
                raise Stopped

        torch.manual_seed(0)
        one = trainer(Catalog.open(catalog), tiny_config(SETTINGS), rank, 2)
        one.resume(folder)
        with suppress(Stopped):
            one.run(folder, on_epoch)
            tensors = {name: value.clone().contiguous() for name, value in state(one).items()}
            save_file(tensors, out / f"{name}-{rank}.safetensors")

    run(out / "whole", "whole", stop=9)
    run(out / "parts", "parts", stop=1)
    run(out / "parts", "parts", stop=9)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    return make_catalog(
        tmp_path_factory.mktemp("workers") / "catalog", {"one": 1, "photo": 21, "sketch": 17}
    ).path


def test_trained_statistics_are_one_and_survive_a_resume(tmp_path, catalog):
    torch.multiprocessing.spawn(work, (catalog, tmp_path), nprocs=2)
    whole, parts = (
        [load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1)] for name in ("whole", "parts")
    )
    for one, other in ((whole[0], whole[1]), (whole[0], parts[0]), (whole[1], parts[1])):
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
