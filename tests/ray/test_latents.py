"""Latents are what the VAE makes of each image, made once, and never used for other images or another model."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from tests.generators import generator, save
from tests.tiny import make_catalog
from ucdr_ray.catalog import Catalog
from ucdr_ray.cluster.latents import make_latents, settings
from ucdr_ray.cluster.parts import held
from ucdr_ray.errors import UserError
from ucdr_ray.images import to_array
from ucdr_ray.latents import Latents

pytestmark = pytest.mark.usefixtures("ray_session")
COUNTS = {"Real World": 1, "photo": 40, "sketch": 23}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_catalog(folder / "catalog", COUNTS)
    save(generator(), folder / "model")
    return folder


def make(world: Path, out: Path, **changed) -> Latents:
    model = str(world / "model")
    return make_latents(model, Catalog.open(world / "catalog"), out, settings(model, **changed), 8, actors=1)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> Latents:
    return make(world, tmp_path_factory.mktemp("made") / "latents")


def rows(latents: Latents, domain: str) -> np.ndarray:
    (found,) = [found for found in latents.manifest.domains if found.name == domain]
    return np.concatenate([latents.part(part) for part in found.parts])


def test_mean_and_variance_of_each_image_and_of_it_flipped(world, whole):
    codec, catalog = generator().codec, Catalog.open(world / "catalog")
    opened = Latents.open(whole.path)
    assert opened.manifest.shape == [2, 2, 4, 8, 8]
    for domain in catalog.domains:
        table = pq.read_table([catalog.path / part.file for part in domain.parts], columns=["image"])
        pixels = np.stack([to_array(image, 16, "squash") for image in table["image"].to_pylist()])
        images = torch.from_numpy(pixels)
        expected = [torch.stack(codec.encode(view), dim=1) for view in (images, images.flip(-1))]
        found = torch.from_numpy(rows(opened, domain.name)).float()
        assert len(found) == COUNTS[domain.name]
        torch.testing.assert_close(found, torch.stack(expected, dim=1), rtol=2e-3, atol=2e-3)


def test_an_interrupted_job_goes_on_and_a_finished_one_is_left(world, whole, tmp_path):
    copy = Path(shutil.copytree(whole.path, tmp_path / "latents"))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.parquet")}
    make(world, copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.parquet")} == before
    (copy / "manifest.json").unlink()
    lost, cut = sorted(before)[1], sorted(before)[3]
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    made = make(world, copy)
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {lost, cut}
    assert np.array_equal(rows(made, "photo"), rows(whole, "photo"))


def test_stale_and_foreign_latents_are_refused(world, whole, tmp_path):
    model, catalog = str(world / "model"), Catalog.open(world / "catalog")
    whole.check(catalog, settings(model))
    other = make_catalog(tmp_path / "other", {"photo": 5, "sketch": 5})
    with pytest.raises(UserError, match="another catalog"):
        whole.check(other, settings(model))
    foreign = str(save(generator(seed=1), tmp_path / "foreign"))
    with pytest.raises(UserError, match="not by foreign"):
        whole.check(catalog, settings(foreign))
    with pytest.raises(UserError, match="size=16, and size=32 is wanted"):
        whole.check(catalog, settings(model, 32))
    file = whole.path / whole.manifest.domains[0].parts[0].file
    damaged = Path(shutil.copytree(whole.path, tmp_path / "damaged")) / file.relative_to(whole.path)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="damaged latents"):
        Latents.open(tmp_path / "damaged")


def test_made_otherwise_they_need_a_folder_of_their_own(world, whole, tmp_path):
    with pytest.raises(UserError, match="holds latents of flipped=True, not False; choose another folder"):
        make(world, whole.path, flipped=False)
    made = make(world, tmp_path / "latents", flipped=False)
    assert made.manifest.shape == [1, 2, 4, 8, 8]
    assert np.array_equal(rows(made, "photo")[:, 0], rows(whole, "photo")[:, 0])


def test_a_folder_of_something_else_is_left_alone(world, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "ucdr-embeddings"}))
    with pytest.raises(UserError, match="holds no latents"):
        make(world, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_two_jobs_do_not_write_to_one_folder(world, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another process"):
        make(world, tmp_path)


def test_a_training_waits_for_another_ones_latents(tmp_path, capfd):
    entered = threading.Event()

    def wait() -> None:
        with held(tmp_path, "writing latents", wait=True):
            entered.set()

    with FileLock(tmp_path / ".lock"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.5)
    waiting.join()
    assert entered.is_set()
    assert capfd.readouterr().err == f"waiting for another process that is writing latents to {tmp_path}\n"


def test_a_size_that_the_model_cannot_take_is_refused(world):
    with pytest.raises(UserError, match="multiples of 2"):
        settings(str(world / "model"), 17)
