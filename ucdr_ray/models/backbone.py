"""Backbones: images in, one pooled feature vector each, through `transformers`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionModelWithProjection,
    MobileNetV1Config,
    MobileNetV2Config,
    ResNetConfig,
    ViTConfig,
)
from transformers import logging as transformers_logging

from ucdr_ray.errors import UserError
from ucdr_ray.models.weights import Triple, load_moco, load_model, normalisation, place

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()  # weights that do not fit are reported in `weights.py`, in a line

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
CLIP = "clip_vision_model"
# Where a folder's own preprocessor_config.json says nothing.
NORMALISATION = {"resnet": IMAGENET, "mobilenet_v1": HALF, "mobilenet_v2": HALF, "vit": HALF, CLIP: OPENAI}


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
    mean: Triple
    std: Triple

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Backbone(nn.Module):
    """A `transformers` vision model, pooled: class token for ViT, for CLIP in its common space with text, else the
    global average."""

    def __init__(self, spec: BackboneSpec, model: nn.Module | None = None) -> None:
        super().__init__()
        self.spec = spec
        if model is None:
            values = dict(spec.transformers)
            family = values.pop("model_type")
            try:
                config = AutoConfig.for_model(family, **values)
                model = (
                    CLIPVisionModelWithProjection(config)
                    if family == CLIP
                    else AutoModel.from_config(config, trust_remote_code=False, **_options(family))
                )
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
            side = int(self.spec.transformers.get("image_size") or 64) if self.family in ("vit", CLIP) else 64
            width = self.forward(torch.zeros(1, 3, side, side)).shape[1]
        self.model.train(training)
        return int(width)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, F) pooled features."""
        if self.family == "vit":
            return self.model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        if self.family == CLIP:
            return self.model(pixels, interpolate_pos_encoding=True).image_embeds
        return self.model(pixels).pooler_output.flatten(1)


def _options(family: str) -> dict[str, Any]:
    return {"add_pooling_layer": False} if family == "vit" else {}


def _spec(name: str, config: Any, pixels: tuple[Triple, Triple] | None = None) -> BackboneSpec:
    """`pixels` are mean and deviation; without them, those of the family."""
    if config.model_type not in NORMALISATION:
        raise UserError(
            f"backbone {name} is a {config.model_type}; allowed: {', '.join(sorted(NORMALISATION))}"
        )
    mean, std = pixels or NORMALISATION[config.model_type]
    values = {key: value for key, value in config.to_dict().items() if key not in ("dtype", "_name_or_path")}
    return BackboneSpec(name, values, mean, std)


def is_local(source: str) -> bool:
    """Whether `source` is a folder or can only mean one: a hub name has at most one slash, and no leading dot."""
    if source.partition(":")[0] in ("random", "moco", "package"):
        return False
    return Path(source).exists() or source.startswith((".", "/", "~")) or source.count("/") > 1


def absolute(source: str) -> str:
    """`source` as a process in any folder understands it: a local folder or file by its absolute path."""
    kind, _, rest = source.partition(":")
    if kind == "moco":
        return f"moco:{Path(rest).resolve()}"
    return str(Path(source).resolve()) if is_local(source) else source


def build_backbone(source: str, seed: int = 0) -> Backbone:
    """Make a backbone from a transformers folder, a hub name, `moco:FILE`, `random:NAME`, or `package:clip`.

    Args:
        seed: seed of random weights; ignored where weights are loaded.

    Raises:
        UserError: unknown name, missing, unreadable or unfitting weights, unsupported family.
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
        backbone = Backbone(_spec(f"moco:{Path(rest).name}", ResNetConfig()))
        load_moco(backbone.model, Path(rest))
        return backbone
    source = place(source)
    local = is_local(source)
    if local and not Path(source).is_dir():
        raise UserError(
            f"no backbone folder at {source}; allowed: a folder with config.json and model.safetensors"
        )
    try:
        # Without the word, transformers asks at the terminal whether to run the folder's own code.
        config = AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        if config.model_type == "clip":
            config = config.vision_config
        spec = _spec(Path(source).resolve().name if local else source, config, normalisation(source))
        kind = CLIPVisionModelWithProjection if config.model_type == CLIP else AutoModel
        model = load_model(source, config, kind, **_options(config.model_type))
    except UserError:
        raise
    except Exception as error:  # transformers raises many kinds for a bad folder
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"backbone {source} can't be loaded: {reason}") from None
    return Backbone(spec, model)
