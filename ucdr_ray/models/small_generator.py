"""A text-to-image model of a few million numbers, untrained: pixels in, a few words, the format of Stable Diffusion."""

import copy
from collections.abc import Iterable
from pathlib import Path

import diffusers
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ucdr_ray.files import staged_folder, write_json
from ucdr_ray.models.codec import Codec
from ucdr_ray.models.content import CONTENT, Content, ContentWord, save_content
from ucdr_ray.models.diffusion import Generator

SIDE = 32
_TOKENS = 16  # of a prompt
_WIDTH = 96
_CHANNELS = (32, 64, 112)
_HEADS = (1, 2, 4)


def small_tokenizer(words: Iterable[str], longest: int = _TOKENS) -> CLIPTokenizer:
    """CLIP's way of splitting words, with a vocabulary of single bytes and of the given words' beginnings.

    A word is one token, but for those that merge otherwise by what an earlier word began with.

    Args:
        longest: tokens of a prompt.
    """
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [f"{letter}</w>" for letter in letters]
    merges: dict[str, None] = {}
    for word in dict.fromkeys(map(_bytes, words)):
        left = word[0] if len(word) > 1 else f"{word}</w>"
        for place in range(1, len(word)):
            right = word[place] + ("</w>" if place == len(word) - 1 else "")
            merges[f"{left} {right}"] = None
            left += right
            tokens.append(left)
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=longest)


def _bytes(word: str) -> str:
    """A letter for each byte, as the tokenizer sees it."""
    return "".join(piece for piece, _ in ByteLevel(False, use_regex=False).pre_tokenize_str(word))


def small_generator(words: Iterable[str], seed: int = 0, side: int = SIDE) -> Generator:
    """Random weights of about 3.5 million numbers, the same for the same seed; `name` is "small".

    Args:
        side: of its pictures, in pixels; a multiple of 4.
    """
    tokenizer = small_tokenizer(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=_WIDTH,
                intermediate_size=2 * _WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=side,
            in_channels=3,
            out_channels=3,
            block_out_channels=_CHANNELS,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            cross_attention_dim=_WIDTH,
            attention_head_dim=_HEADS,
            norm_num_groups=16,
        )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    )
    return Generator(unet, text, tokenizer, scheduler, Codec(None), "small")


def save_generator(generator: Generator, folder: Path) -> None:
    """Write it as diffusers does, in half precision, with the g that was trained along, if one was.

    The folder appears whole or not at all.
    """
    with staged_folder(folder) as staging:
        generator.tokenizer.save_pretrained(staging / "tokenizer")
        generator.scheduler.save_pretrained(staging / "scheduler")
        parts = {"unet": generator.unet, "text_encoder": generator.text_encoder}
        for name, model in parts.items():
            half = copy.deepcopy(model).half().to(memory_format=torch.contiguous_format)
            if name == "unet":
                half.register_to_config(_name_or_path="")  # where it was loaded from says nothing elsewhere
            half.save_pretrained(staging / name)
        index = {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": diffusers.__version__,
            "scheduler": ["diffusers", "DDPMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": [None, None],
        }
        write_json(staging / "model_index.json", index)
        if isinstance(generator.start, ContentWord):
            made_with = dict(generator.styles), ".", None, generator.start_for
            save_content(staging / CONTENT, Content(generator.start, None, *made_with))
