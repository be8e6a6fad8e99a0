"""Where a model that only embeds runs; training has its own setting, `train.device`."""

import torch


def fastest_device() -> torch.device:
    """A CUDA device if this process sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
