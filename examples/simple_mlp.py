"""A 768-256-128-1 network, to be compared in every precision at batch 1000:

trt-ff compare --model examples.simple_mlp:build --input x:float32:1000x768 --threads 1 --rounds 100
"""

from __future__ import annotations

import torch
from torch import nn


def build() -> nn.Module:
    """The network with weights of a fixed seed; it is not trained, so errors are relative to its own outputs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1))
