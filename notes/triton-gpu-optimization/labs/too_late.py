"""Planted: three settings, of which none does what its author meant."""

import os

import torch

os.environ["TORCH_LOGS"] = "output_code"
os.environ["TORCHINDUCTOR_MAX_AUTOTUNE"] = "true"
os.environ["TORCHDYNAMO_CACHE_SIZE_LIMIT"] = "64"

twice = torch.compile(lambda x: 2 * x)
