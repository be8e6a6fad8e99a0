"""Random vectors for tests."""

import numpy as np
import torch


def unit_rows(rows, dim, seed):
    data = np.random.default_rng(seed).normal(size=(rows, dim))
    return torch.nn.functional.normalize(torch.tensor(data, dtype=torch.float32), dim=1)
