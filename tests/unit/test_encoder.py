import json

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from ucdr_ray.errors import UserError
from ucdr_ray.models.backbone import build_backbone
from ucdr_ray.models.encoder import Encoder


@pytest.fixture
def encoder():
    return Encoder(build_backbone("random:resnet-mini", 3), 32, head=(16, 8))


def images(rows=5, size=32):
    return torch.randint(
        0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("name", ["resnet-mini", "resnet18", "mobilenet_v1_025", "mobilenet_v2", "vit-tiny"])
def test_every_family_gives_unit_vectors(name):
    encoder = Encoder.from_backbone(f"random:{name}", 64)
    vectors = encoder.encode(images(size=64))
    assert vectors.shape == (5, encoder.dim) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))


def test_saved_and_loaded_encoder_is_the_same(encoder, tmp_path):
    encoder.save(tmp_path / "encoder")
    loaded = Encoder.load(tmp_path / "encoder")
    assert torch.equal(loaded.encode(images()), encoder.encode(images()))
    assert loaded.fingerprint == encoder.fingerprint
    assert (loaded.dim, loaded.size, loaded.resize) == (8, 32, "squash")


def test_fingerprint_follows_the_weights(encoder):
    before = encoder.eval().fingerprint
    changed = Encoder(build_backbone("random:resnet-mini", 4), 32, head=(16, 8)).eval()
    assert changed.fingerprint != before


def test_backbone_embedding_ignores_the_head(encoder, tmp_path):
    encoder.embedding = "backbone"
    encoder.save(tmp_path / "e")
    assert Encoder.load(tmp_path / "e").encode(images()).shape == (5, encoder.backbone.dim)


def test_damaged_or_foreign_encoders_are_refused_in_one_line(encoder, tmp_path):
    encoder.save(tmp_path / "e")
    weights = tmp_path / "e" / "encoder.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        Encoder.load(tmp_path / "e")
    with pytest.raises(UserError, match="no encoder at"):
        Encoder.load(tmp_path / "nothing")
    (tmp_path / "e" / "encoder.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="not an encoder"):
        Encoder.load(tmp_path / "e")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("random:resnet9", "allowed: .*resnet-mini"),
        ("./no-such-folder", "no backbone folder"),
        ("/no/such/folder", "no backbone folder"),
        ("~/no-such-folder", "no backbone folder"),
        ("weights/no/such-folder", "no backbone folder at weights/no/such-folder"),
        ("moco:missing.pth.tar", "no MoCo checkpoint"),
    ],
)
def test_bad_backbones_are_one_clear_line(source, message):
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(source)
    assert "\n" not in str(caught.value)


def test_a_folder_with_broken_weights_is_one_clear_line(tmp_path):
    ResNetModel(
        ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], embedding_size=8)
    ).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(UserError, match="can't be loaded") as caught:
        build_backbone(str(tmp_path))
    assert "\n" not in str(caught.value)
