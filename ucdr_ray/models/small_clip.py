"""A CLIP of a few million numbers, untrained: small pictures, a few words, the format of `transformers`."""

import copy
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from ucdr_ray.files import staged_folder, write_json
from ucdr_ray.models.small_generator import small_tokenizer

SIDE = 64
_PATCH = 8
_DIM = 128  # of the common space
_IMAGE = {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 6, "num_attention_heads": 4}
_TEXT = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
_TOKENS = 24  # of a prompt
_TEMPERATURE = 0.07  # at first


def small_clip(words: Iterable[str], seed: int = 0) -> tuple[CLIPModel, CLIPTokenizer]:
    """Random weights of about two million numbers, the same for the same seed, and a tokenizer of these words."""
    tokenizer = small_tokenizer(words, _TOKENS)
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=_TOKENS, projection_dim=_DIM, **tokens, **_TEXT
    )
    image = CLIPVisionConfig(image_size=SIDE, patch_size=_PATCH, projection_dim=_DIM, **_IMAGE)
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=image.to_dict(),
        projection_dim=_DIM,
        logit_scale_init_value=float(torch.tensor(1 / _TEMPERATURE).log()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config), tokenizer


def save_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write it as transformers does, in half precision; the folder appears whole or not at all."""
    with staged_folder(folder) as staging:
        copy.deepcopy(model).half().save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True}
        size = {"do_resize": True, "size": {"height": SIDE, "width": SIDE}}
        write_json(
            staging / "preprocessor_config.json",
            {"image_processor_type": "CLIPImageProcessor"} | pixels | size,
        )
