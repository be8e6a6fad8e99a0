"""Stored weights are loaded whole, with the pixels they were trained on, or refused in one line."""

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    ViTConfig,
    ViTForImageClassification,
)

from tests.training import tiny_config
from ucdr_ray.engine import build_encoder
from ucdr_ray.errors import UserError
from ucdr_ray.models.backbone import HALF, IMAGENET, absolute, build_backbone
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.models.weights import moco_key

RESNET = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "embedding_size": 8}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A ResNet with its classifier, as hubs hold them."""
    ResNetForImageClassification(ResNetConfig(**RESNET)).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def change(folder: Path, edit) -> None:
    file = folder / "model.safetensors"
    save_file({k: v for name, value in load_file(file).items() for k, v in edit(name, value)}, file)


def refused(source: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(str(source))
    assert "\n" not in str(caught.value)


def test_a_folder_gives_its_weights_and_leaves_a_classifier_out(folder):
    stored = load_file(folder / "model.safetensors")
    loaded = build_backbone(str(folder), seed=1).model.state_dict()
    assert all(torch.equal(stored[f"resnet.{name}"], value) for name, value in loaded.items())
    assert any(name.startswith("classifier") for name in stored)


def test_a_relative_folder_is_found_from_any_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "moco.pth").touch()
    here = build_backbone("weights")
    places = [
        absolute(source) for source in ("weights", "moco:moco.pth", "microsoft/resnet-18", "random:resnet18")
    ]
    assert places == [str(folder), f"moco:{folder.parent}/moco.pth", "microsoft/resnet-18", "random:resnet18"]
    monkeypatch.chdir("/")
    assert build_backbone(places[0]).spec == here.spec
    config = tiny_config(["model.backbone=weights"])
    assert build_encoder(config, places[0]).backbone.spec == here.spec


def test_a_transformer_needs_no_pooler(tmp_path):
    ViTForImageClassification(ViTConfig(**VIT, image_size=32, patch_size=16)).save_pretrained(tmp_path)
    assert build_backbone(str(tmp_path)).dim == 16


def test_a_folder_cannot_bring_its_own_code(tmp_path, monkeypatch):
    marker = tmp_path / "executed"
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import ResNetConfig\n\n\nclass EvilConfig(ResNetConfig):\n    model_type = 'evilnet'\n"
    )
    content = {"model_type": "evilnet", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (evil / "config.json").write_text(json.dumps(content))
    # transformers copies a folder's code to its cache, and asks before it runs it.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    refused(evil, f"backbone {evil} can't be loaded: .*custom code")
    assert not marker.exists()


def test_renamed_weights_are_refused(folder):
    change(folder, lambda name, value: [(name.replace("encoder", "trunk"), value)])
    refused(folder, r"weights don't fit its config.json: \d+ of \d+ missing, first encoder.stages")


def test_a_single_missing_weight_is_refused_but_not_a_count_of_batches(folder):
    change(folder, lambda name, value: [] if name.endswith("num_batches_tracked") else [(name, value)])
    build_backbone(str(folder))
    gone = "resnet.embedder.embedder.normalization.running_var"
    change(folder, lambda name, value: [] if name == gone else [(name, value)])
    refused(folder, "1 of .* missing, first embedder.embedder.normalization.running_var")


def test_weights_of_another_shape_are_refused(folder):
    change(folder, lambda name, value: [(name, value[:4].clone() if "embedder.conv" in name else value)])
    refused(folder, "embedder.embedder.convolution.weight is 4 x 3 x 7 x 7, not 8 x 3 x 7 x 7")


def test_pixels_enter_as_the_folder_says(folder):
    assert (build_backbone(str(folder)).spec.mean, build_backbone(str(folder)).spec.std) == IMAGENET
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    before = Encoder.from_backbone(str(folder), 32).encode(images)
    preprocessor = folder / "preprocessor_config.json"
    preprocessor.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5, 0.5, 0.5], "size": 224}))
    spec = build_backbone(str(folder)).spec
    assert (spec.mean, spec.std) == HALF
    assert not torch.allclose(Encoder.from_backbone(str(folder), 32).encode(images), before)
    preprocessor.write_text(json.dumps({"do_normalize": False, "image_mean": [0.5] * 3}))
    spec = build_backbone(str(folder)).spec
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))
    preprocessor.write_text(json.dumps({"size": 224}))
    assert (build_backbone(str(folder)).spec.mean, build_backbone(str(folder)).spec.std) == IMAGENET


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_mean": [0.5] * 3}, "image_std: None; allowed: three finite numbers"),
        ({"image_mean": [0.5] * 2, "image_std": [1] * 3}, "image_mean: .*three finite numbers"),
        ({"image_mean": [0.5, "a", 1], "image_std": [1] * 3}, "image_mean: .*three finite numbers"),
        ({"image_mean": [0.5, float("nan"), 1], "image_std": [1] * 3}, "three finite numbers"),
        ({"image_mean": [0.5] * 3, "image_std": [1, 0, 1]}, "image_std: .*numbers above 0"),
        ([1], "must hold an object"),
    ],
)
def test_a_bad_preprocessor_is_refused(folder, content, message):
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    refused(folder, message)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "must hold state_dict"),
        ({"state_dict": [1]}, "must hold state_dict"),
        ({"state_dict": {"module.encoder_q.conv1.weight": "text"}}, "must hold state_dict"),
        ({"state_dict": {}}, "weights missing, first"),
    ],
)
def test_something_else_is_no_moco_checkpoint(tmp_path, content, message):
    torch.save(content, tmp_path / "moco.pth.tar")
    refused(f"moco:{tmp_path / 'moco.pth.tar'}", message)


def test_a_moco_checkpoint_of_another_width_is_refused(tmp_path):
    inverse = {moco_key(name): name for name in official_moco_names()}
    state = {inverse[name]: value for name, value in ResNetModel(ResNetConfig()).state_dict().items()}
    state["module.encoder_q.conv1.weight"] = torch.zeros(32, 3, 7, 7)
    torch.save({"state_dict": state}, tmp_path / "moco.pth.tar")
    refused(f"moco:{tmp_path / 'moco.pth.tar'}", "is 32 x 3 x 7 x 7, not 64 x 3 x 7 x 7")
