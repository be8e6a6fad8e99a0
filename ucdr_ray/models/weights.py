"""Stored weights, read so that nothing is left random unnoticed: `transformers` folders and MoCo v2's checkpoint."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils.hub import cached_file

from ucdr_ray.errors import UserError
from ucdr_ray.files import read_json

Triple = tuple[float, float, float]
PACKAGED = "package:clip"
_CLIP = Path(__file__).parents[1] / "drawings" / "clip"


def place(source: str) -> str:
    """Where a model lies: the folder or hub name itself, or that of `package:clip`, the package's own for its drawings.

    Raises:
        UserError: another `package:` name.
    """
    if source.partition(":")[0] != "package":
        return source
    if source != PACKAGED:
        raise UserError(
            f"{source}: there is no such model; allowed: {PACKAGED}, the CLIP of the package's drawings"
        )
    return str(_CLIP)


def load_model(source: str, config: Any = None, kind: Any = AutoModel, **options: Any) -> nn.Module:
    """The model of a `transformers` folder or hub name, float32; weights that it has no place for are left out.

    Args:
        config: of the model; None: the folder's own.
        kind: the class of `transformers` that it is to be.

    Raises:
        UserError: a weight of the model is missing or of another shape.
        Exception: of many kinds, from `transformers`, where the weights can't be read.
    """
    model, info = kind.from_pretrained(
        source,
        config=config,
        trust_remote_code=False,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported here instead, in a line
        **options,
    )
    # A count of batches seen changes nothing: batch normalisation has a fixed momentum here.
    missing = sorted(name for name in info["missing_keys"] if not name.endswith("num_batches_tracked"))
    if missing:
        total = len(model.state_dict())
        raise UserError(
            f"backbone {source}: its weights don't fit its config.json: {len(missing)} of {total} missing, "
            f"first {missing[0]}"
        )
    if info["mismatched_keys"]:
        name, there, needed = min(info["mismatched_keys"])
        raise UserError(
            f"backbone {source}: its weights don't fit its config.json: {name} is {_shape(there)}, not {_shape(needed)}"
        )
    return model


def normalisation(source: str) -> tuple[Triple, Triple] | None:
    """Mean and deviation of pixels in [0, 1] that `preprocessor_config.json` tells; None where it tells none.

    Raises:
        UserError: they are not three finite numbers each, or a deviation is not above 0.
        OSError: a hub name that can't be reached.
    """
    file = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    content = read_json(Path(file), "image preprocessor")
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold an object with image_mean and image_std")
    if content.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if "image_mean" not in content and "image_std" not in content:
        return None
    mean, std = (_triple(content.get(name), f"{file}: {name}") for name in ("image_mean", "image_std"))
    if min(std) <= 0:
        raise UserError(f"{file}: image_std: {list(std)}; allowed: numbers above 0")
    return mean, std


def _triple(value: Any, where: str) -> Triple:
    numbers = isinstance(value, list) and all(
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        for number in value
    )
    if not numbers or len(value) != 3:
        raise UserError(f"{where}: {value}; allowed: three finite numbers")
    red, green, blue = value
    return float(red), float(green), float(blue)


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


def load_moco(model: nn.Module, file: Path) -> None:
    """Give a ResNet-50 the weights of MoCo v2's official checkpoint, which is read as data: tensors only.

    Raises:
        UserError: there is no such file, it is no checkpoint of tensors, or not of this network.
    """
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no MoCo checkpoint at {file}") from None
    except Exception as error:  # torch raises many kinds for a bad file
        raise UserError(f"{file} is not a MoCo checkpoint of tensors: {_first_line(error)}") from None
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} is not a MoCo checkpoint: it must hold state_dict, with tensors by name")
    ours = {new: value for old, value in state.items() if (new := moco_key(str(old)))}
    needed = model.state_dict()
    missing = [name for name in needed if name not in ours and not name.endswith("num_batches_tracked")]
    if missing or ours.keys() - needed.keys():
        raise UserError(
            f"{file} doesn't hold MoCo v2's ResNet-50: {len(missing)} weights missing, first {missing[:1]}"
        )
    for name, value in ours.items():
        if value.shape != needed[name].shape:
            raise UserError(
                f"{file} doesn't hold MoCo v2's ResNet-50: {name} is {_shape(value.shape)}, "
                f"not {_shape(needed[name].shape)}"
            )
    model.load_state_dict(ours, strict=False)


def _shape(sizes: Any) -> str:
    return " x ".join(map(str, sizes)) or "a number"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
