"""Generators from files: folders or hub names in the format of Stable Diffusion, checked part by part."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ucdr_ray.errors import UserError
from ucdr_ray.models.codec import Codec
from ucdr_ray.models.content import CONTENT, Content, load_content
from ucdr_ray.models.diffusion import Generator

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()

DRAWINGS = Path(__file__).parents[1] / "drawings" / "generator"
PACKAGED = "package:drawings"
_TARGETS = ("epsilon", "v_prediction")
_KIND = "allowed: models like Stable Diffusion 1 and 2"
_ADVICE = "name a folder in the diffusers format, made by `pipeline.save_pretrained` or `hf download`"


def load_generator(source: str, dtype: torch.dtype = torch.float32, local: bool = True) -> Generator:
    """The whole model.

    Args:
        source: a folder, a hub name, or "package:drawings" for the package's own.
        local: never asks the hub: a hub name means files that are on this machine already.

    Raises:
        UserError: there is no such model, or it is of another kind.
    """
    index = _index(source, local)
    unet = _weights(UNet2DConditionModel, source, "unet", local, torch_dtype=dtype)
    text = _weights(CLIPTextModel, source, "text_encoder", local, dtype=dtype)
    tokenizer = _read(CLIPTokenizer, source, "tokenizer", local)
    scheduler = _read(DDPMScheduler, source, "scheduler", local)
    codec = _codec(index, source, dtype, local)
    _check(source, unet.config, text.config, scheduler.config, codec)
    content = Path(_place(source)) / CONTENT
    name = model_name(source)
    if not content.is_dir():
        return Generator(unet, text, tokenizer, scheduler, codec, name)
    along = load_content(content)
    start = along.word, along.styles, along.backbone_sha256
    return Generator(unet, text, tokenizer, scheduler, codec, name, *start)


def load_teacher(content: Content) -> Generator:
    """The generator that taught a run's [z]. Raises as `load_generator`, and where it is another one by now."""
    generator = load_generator(content.generator)
    if content.generator_sha256 not in (None, generator.fingerprint):
        raise UserError(
            f"generator {content.generator}: not the one that taught the run, its weights have changed"
        )
    return generator


def load_codec(source: str, dtype: torch.dtype = torch.float32, local: bool = True) -> tuple[Codec, int]:
    """The model's codec alone, and the side of the images that it was made for. Raises as `load_generator`."""
    codec = _codec(_index(source, local), source, dtype, local)
    try:
        side = int(
            UNet2DConditionModel.load_config(_place(source), subfolder="unet", local_files_only=local)[
                "sample_size"
            ]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"generator {source}: unet: {_line(error)}; {_ADVICE}") from None
    return codec, side * codec.stride


def model_name(source: str) -> str:
    """A name for people: the folder's, or the hub's."""
    return Path(source).name if Path(source).exists() else source


def _place(source: str) -> str:
    return str(DRAWINGS) if source == PACKAGED else source


def _index(source: str, local: bool) -> dict[str, Any]:
    try:
        index: dict[str, Any] = DiffusionPipeline.load_config(_place(source), local_files_only=local)
    except (OSError, ValueError):
        what = "is no model" if Path(source).exists() else "is not on this machine"
        raise UserError(f"generator {source}: {what} (no model_index.json); {_ADVICE}") from None
    missing = [part for part in ("unet", "text_encoder", "tokenizer", "scheduler") if not _has(index, part)]
    if missing or _has(index, "text_encoder_2"):
        what = f"has no {missing[0]}" if missing else "has two text encoders"
        raise UserError(f"generator {source}: {what}: a {index.get('_class_name', 'model')}; {_KIND}")
    return index


def _has(index: dict[str, Any], part: str) -> bool:
    entry = index.get(part)
    return isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] is not None


def _read(kind: Any, source: str, part: str, local: bool, **options: Any) -> Any:
    try:
        options |= {"subfolder": part, "local_files_only": local}
        return kind.from_pretrained(_place(source), trust_remote_code=False, **options)
    except Exception as error:  # diffusers and transformers raise many kinds for a bad folder
        raise UserError(f"generator {source}: {part}: {_line(error)}; {_ADVICE}") from None


def _weights(kind: Any, source: str, part: str, local: bool, **options: Any) -> nn.Module:
    """A part with its weights, or those of half precision where there are no others."""
    options |= {"use_safetensors": True, "output_loading_info": True}
    try:
        model, info = _read(kind, source, part, local, **options)
    except UserError as error:
        try:
            model, info = _read(kind, source, part, local, variant="fp16", **options)
        except UserError:
            raise error from None
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"generator {source}: {part} lacks {len(missing)} weights, first {missing[0]}")
    return model


def _codec(index: dict[str, Any], source: str, dtype: torch.dtype, local: bool) -> Codec:
    return Codec(
        _weights(AutoencoderKL, source, "vae", local, torch_dtype=dtype) if _has(index, "vae") else None
    )


def _check(source: str, unet: Any, text: Any, scheduler: Any, codec: Codec) -> None:
    if unet.addition_embed_type is not None or unet.class_embed_type is not None:
        raise UserError(f"generator {source}: its U-Net wants more than a text; {_KIND}")
    if unet.cross_attention_dim != text.hidden_size:
        raise UserError(
            f"generator {source}: its U-Net reads texts of {unet.cross_attention_dim} numbers a token, "
            f"its text encoder writes {text.hidden_size}"
        )
    if scheduler.prediction_type not in _TARGETS:
        raise UserError(
            f"generator {source}: prediction_type {scheduler.prediction_type}; allowed: {', '.join(_TARGETS)}"
        )
    if {unet.in_channels, unet.out_channels} != {codec.channels}:
        raise UserError(
            f"generator {source}: its U-Net has {unet.in_channels} channels in and {unet.out_channels} out, "
            f"its images {codec.channels}"
        )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
