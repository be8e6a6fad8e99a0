import json

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from ucdr_ray.errors import UserError
from ucdr_ray.models.backbone import build_backbone, moco_key
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


def official_moco_names():
    """Names of a torchvision ResNet-50 inside MoCo v2's checkpoint, spelled out independently."""
    names = ["conv1.weight"]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names += [f"bn1.{n}" for n in norm]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}."
            for i in (1, 2, 3):
                names += [f"{at}conv{i}.weight"] + [f"{at}bn{i}.{n}" for n in norm]
            if block == 0:
                names += [f"{at}downsample.0.weight"] + [f"{at}downsample.1.{n}" for n in norm]
    return [f"module.encoder_q.{n}" for n in names]


def test_moco_key_map_covers_resnet50_exactly():
    with torch.device("meta"):
        expected = set(ResNetModel(ResNetConfig()).state_dict())
    assert {moco_key(name) for name in official_moco_names()} == expected
    assert moco_key("module.encoder_q.fc.0.weight") is None and moco_key("module.queue") is None


def test_moco_checkpoint_loads(tmp_path):
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig())
    inverse = {moco_key(name): name for name in official_moco_names()}
    state = {inverse[name]: value for name, value in model.state_dict().items()}
    state["module.encoder_q.fc.0.weight"] = torch.zeros(2, 2)
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state}, tmp_path / "moco.pth.tar")
    backbone = build_backbone(f"moco:{tmp_path / 'moco.pth.tar'}").eval()
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone(pixels), model.eval()(pixels).pooler_output.flatten(1))
