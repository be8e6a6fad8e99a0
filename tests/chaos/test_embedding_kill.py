"""An embedding job that is killed is refused as it lies, and ends in the same vectors when it is run again."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.tiny import make_catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import UserError
from ucdr_ray.images import to_array
from ucdr_ray.models.encoder import Encoder


def start(catalog, out) -> subprocess.Popen:
    code = "from ucdr_ray.cli import main; main()"
    words = ["embed", "--backbone", "random:resnet-mini", "--size", "64", "--batch", "4"]
    call = [sys.executable, "-c", code, *words, "--catalog", str(catalog.path), "--out", str(out)]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(600)
def test_killed_and_run_again_it_ends_in_the_vectors_of_the_encoder(tmp_path):
    catalog = make_catalog(tmp_path / "catalog", {"photo": 400, "sketch": 300}, rows_per_part=10)
    out = tmp_path / "embeddings"
    process = start(catalog, out)
    while not list((out / "vectors").rglob("*.parquet")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with pytest.raises(UserError):
        Embeddings.open(out)
    again = start(catalog, out)
    errors = again.communicate()[1]
    assert again.returncode == 0 and "Traceback" not in errors, errors
    made, encoder = Embeddings.open(out), Encoder.from_backbone("random:resnet-mini", 64)
    for domain in ("photo", "sketch"):
        table = catalog.read(domain, ["id", "image"])
        assert made.ids(domain).to_pylist() == table["id"].to_pylist()
        images = np.stack([to_array(image, 64, "squash") for image in table["image"].to_pylist()])
        expected = encoder.encode(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(made.vectors(domain), expected, atol=1e-5)
