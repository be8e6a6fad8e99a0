"""Where bfloat16 is quick on a CPU."""

import torch

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # which sum in float32


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a CPU has instructions for products of bfloat16; without them they are slower than float32's."""
    return device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in _INSTRUCTIONS)
