"""Generators from files: folders or hub names in the format of Stable Diffusion, checked part by part."""

import os
import warnings
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
_LARGEST = 4096  # side of a latent: pixels with an identity VAE
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
    _check(source, unet.config, text.config, codec)
    _check_times(source, scheduler)
    _check_tokens(source, tokenizer, text.config)
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
        unet = UNet2DConditionModel.load_config(_place(source), subfolder="unet", local_files_only=local)
        side = unet["sample_size"]
    except Exception as error:  # as in `_read`
        raise UserError(f"generator {source}: unet: {_line(error)}; {_ADVICE}") from None
    _check_side(source, side)
    return codec, side * codec.stride


def model_name(source: str) -> str:
    """A name for people: the folder's, or the hub's."""
    return Path(source).name if Path(source).exists() else source


def _place(source: str) -> str:
    return str(DRAWINGS) if source == PACKAGED else source


def _index(source: str, local: bool) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of an option that diffusers itself gives the hub's library
            index: dict[str, Any] = DiffusionPipeline.load_config(_place(source), local_files_only=local)
        if not isinstance(index, dict):
            raise ValueError
    except Exception:  # as in `_read`
        what = "is no model" if os.path.exists(source) else "is not on this machine"
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


def _check(source: str, unet: Any, text: Any, codec: Codec) -> None:
    _check_side(source, unet.sample_size)
    if unet.addition_embed_type is not None or unet.class_embed_type is not None:
        raise UserError(f"generator {source}: its U-Net wants more than a text; {_KIND}")
    if unet.cross_attention_dim != text.hidden_size:
        raise UserError(
            f"generator {source}: its U-Net reads texts of {unet.cross_attention_dim} numbers a token, "
            f"its text encoder writes {text.hidden_size}"
        )
    if {unet.in_channels, unet.out_channels} != {codec.channels}:
        raise UserError(
            f"generator {source}: its U-Net has {unet.in_channels} channels in and {unet.out_channels} out, "
            f"its images {codec.channels}"
        )


def _check_side(source: str, side: Any) -> None:
    if type(side) is not int or not 1 <= side <= _LARGEST:
        raise UserError(f"generator {source}: unet: sample_size {side!r}; allowed: 1 to {_LARGEST}")


def _check_times(source: str, scheduler: Any) -> None:
    target, times = scheduler.config.prediction_type, scheduler.config.num_train_timesteps
    if target not in _TARGETS:
        raise UserError(f"generator {source}: prediction_type {target}; allowed: {', '.join(_TARGETS)}")
    if times < 2 or len(scheduler.alphas_cumprod) != times:
        raise UserError(
            f"generator {source}: scheduler: num_train_timesteps {times}, and noise for "
            f"{len(scheduler.alphas_cumprod)}; allowed: the same number, from 2"
        )


def _check_tokens(source: str, tokenizer: Any, text: Any) -> None:
    """A tokenizer without its files is read without a word, and tells nothing apart."""
    said = f"generator {source}: tokenizer"
    length, longest = tokenizer.model_max_length, text.max_position_embeddings
    if not 1 < length <= longest:
        raise UserError(f"{said}: model_max_length {length:g}; allowed: up to the text encoder's {longest}")
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if None in special or len(tokenizer) > text.vocab_size:
        raise UserError(
            f"{said}: {len(tokenizer)} tokens, begin, end and padding {special}; allowed: all three, and up to "
            f"the text encoder's {text.vocab_size}"
        )
    words = tokenizer("a an of", add_special_tokens=False)["input_ids"]
    if len(set(words)) < 3:
        raise UserError(
            f"{said}: does not tell 'a', 'an' and 'of' apart: its vocabulary is missing; {_ADVICE}"
        )


def _line(error: Exception) -> str:
    """The first line, and with one that only announces it, the next."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
