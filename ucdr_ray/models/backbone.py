"""Backbones: images in, one pooled feature vector each, through `transformers`."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, MobileNetV1Config, MobileNetV2Config, ResNetConfig, ViTConfig
from transformers import logging as transformers_logging

from ucdr_ray.errors import UserError

transformers_logging.disable_progress_bar()

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NORMALISATION = {"resnet": IMAGENET, "mobilenet_v1": HALF, "mobilenet_v2": HALF, "vit": HALF}


def _random(name: str) -> Any:
    configs = {
        "resnet-mini": lambda: ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic"
        ),
        "resnet18": lambda: ResNetConfig(
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
        ),
        "resnet50": ResNetConfig,
        "mobilenet_v1_025": lambda: MobileNetV1Config(depth_multiplier=0.25),
        "mobilenet_v1": MobileNetV1Config,
        "mobilenet_v2": MobileNetV2Config,
        "vit-tiny": lambda: ViTConfig(
            hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768
        ),
    }
    if name not in configs:
        raise UserError(f"model.backbone random:{name}: unknown; allowed: {', '.join(sorted(configs))}")
    return configs[name]()


@dataclass(frozen=True)
class BackboneSpec:
    """All that rebuilds a backbone's shape; JSON-able."""

    name: str
    transformers: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Backbone(nn.Module):
    """A `transformers` vision model, pooled: class token for ViT, global average otherwise."""

    def __init__(self, spec: BackboneSpec, model: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        if model is None:
            values = dict(spec.transformers)
            family = values.pop("model_type")
            try:
                config = AutoConfig.for_model(family, **values)
                model = AutoModel.from_config(config, **_options(family))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"backbone {spec.name}: {error}".splitlines()[0]) from None
        self.model = model
        self.dim = self._measure()

    @property
    def family(self) -> str:
        return str(self.spec.transformers["model_type"])

    def _measure(self) -> int:
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            side = int(self.spec.transformers.get("image_size") or 64) if self.family == "vit" else 64
            width = self.forward(torch.zeros(1, 3, side, side)).shape[1]
        self.model.train(training)
        return int(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, F) pooled features."""
        if self.family == "vit":
            return self.model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        return self.model(pixels).pooler_output.flatten(1)


def _options(family: str) -> dict[str, Any]:
    return {"add_pooling_layer": False} if family == "vit" else {}


def _spec(name: str, config: Any) -> BackboneSpec:
    if config.model_type not in NORMALISATION:
        raise UserError(
            f"backbone {name} is a {config.model_type}; allowed: {', '.join(sorted(NORMALISATION))}"
        )
    mean, std = NORMALISATION[config.model_type]
    values = {key: value for key, value in config.to_dict().items() if key not in ("dtype", "_name_or_path")}
    return BackboneSpec(name, values, mean, std)


def build_backbone(source: str, seed: int = 0) -> Backbone:
    """Make a backbone from a transformers folder, a hub name, `moco:FILE`, or `random:NAME`.

    Args:
        seed: seed of random weights; ignored where weights are loaded.

    Raises:
        UserError: unknown name, missing or unreadable weights, unsupported family.
    """
    kind, _, rest = source.partition(":")
    if kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = Backbone(_spec(source, _random(rest)))
            for module in backbone.modules():
                # The MobileNets' own initial deviation of 0.02 lets the signal vanish in a network of this depth.
                if isinstance(module, nn.Conv2d) and backbone.family.startswith("mobilenet"):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            return backbone
    if kind == "moco":
        return _moco(Path(rest))
    folder = Path(source)
    if not folder.is_dir() and (source.startswith((".", "/")) or folder.exists()):
        raise UserError(
            f"no backbone folder at {source}; allowed: a folder with config.json and model.safetensors"
        )
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=folder.is_dir())
        spec = _spec(folder.resolve().name if folder.is_dir() else source, config)
        model = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, use_safetensors=True, **_options(config.model_type)
        )
    except UserError:
        raise
    except Exception as error:  # transformers raises many kinds for a bad folder
        raise UserError(f"backbone {source} can't be loaded: {str(error).splitlines()[0]}") from None
    return Backbone(spec, model)


def moco_key(name: str) -> str | None:
    """Name in `transformers`' ResNet of a parameter of MoCo v2's official checkpoint; None for what isn't used.

    Source: facebookresearch/moco, `module.encoder_q.*`; torchvision's names inside.
    """
    match = re.fullmatch(r"module\.encoder_q\.(.+)", name)
    if match is None or match[1].startswith("fc."):
        return None
    name = match[1]
    for old, new in (
        ("conv1.", "embedder.embedder.convolution."),
        ("bn1.", "embedder.embedder.normalization."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    block = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.+)", name)
    if block is None:
        return None
    stage, layer, kind, number, rest = block.groups()
    place = f"encoder.stages.{int(stage) - 1}.layers.{layer}."
    if kind == "downsample.":
        return place + ("shortcut.convolution." if number == "0" else "shortcut.normalization.") + rest
    part = "convolution" if kind == "conv" else "normalization"
    return f"{place}layer.{int(number) - 1}.{part}.{rest}"


def _moco(file: Path) -> Backbone:
    """ResNet-50 with the weights of MoCo v2's official checkpoint (read as data: tensors only)."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no MoCo checkpoint at {file}") from None
    except Exception as error:
        raise UserError(f"{file} is not a MoCo checkpoint of tensors: {str(error).splitlines()[0]}") from None
    state = {new: value for old, value in checkpoint.get("state_dict", {}).items() if (new := moco_key(old))}
    backbone = Backbone(_spec(f"moco:{file.name}", ResNetConfig()))
    missing, unexpected = backbone.model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise UserError(
            f"{file} doesn't hold MoCo v2's ResNet-50: {len(missing)} weights missing, first {missing[:1]}"
        )
    return backbone
