"""Generators for tests: the format of Stable Diffusion, a few thousand random numbers."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ucdr_ray.files import write_json
from ucdr_ray.models.codec import Codec
from ucdr_ray.models.diffusion import Generator
from ucdr_ray.models.small_generator import small_tokenizer

WORDS = ("a", "an", "of", "photo", "sketch", "infograph", "pencil", "drawing", "cat")


def generator(prediction: str = "epsilon", vae: bool = True, width: int = 24, seed: int = 0) -> Generator:
    """Images of 16 x 16; with a VAE latents of 4 x 8 x 8."""
    tokenizer = small_tokenizer(WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=16,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        channels = 4 if vae else 3
        unet = UNet2DConditionModel(
            sample_size=8 if vae else 16,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        coder = None
        if vae:
            coder = AutoencoderKL(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=4,
                sample_size=16,
            )
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    return Generator(unet, text, tokenizer, scheduler, Codec(coder), "tiny")


def save(made: Generator, folder: Path) -> Path:
    """As diffusers saves a pipeline."""
    parts = {
        "unet": ("diffusers", "UNet2DConditionModel", made.unet),
        "text_encoder": ("transformers", "CLIPTextModel", made.text_encoder),
        "tokenizer": ("transformers", "CLIPTokenizer", made.tokenizer),
        "scheduler": ("diffusers", "DDPMScheduler", made.scheduler),
        "vae": ("diffusers", "AutoencoderKL", made.codec.vae),
    }
    index = {"_class_name": "StableDiffusionPipeline"}
    for name, (library, kind, part) in parts.items():
        index[name] = [library, kind] if part is not None else [None, None]
        if part is not None:
            part.save_pretrained(folder / name)
    write_json(folder / "model_index.json", index)
    return folder
