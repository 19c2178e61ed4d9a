"""A GPT-2 with random weights in PyTorch, and PyTorch set up to be compared with JAX on the same device."""

import os
import sys

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves PyTorch some of the GPU's memory

import jax
import torch
import transformers

SIZES = {"small": (768, 12, 12), "medium": (1024, 24, 16), "tiny": (64, 2, 2)}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def use_the_device_of_jax():
    """Exit unless PyTorch runs on JAX's device; multiply float32 in TF32 on a GPU, as JAX does."""
    if (jax.default_backend() == "gpu") != torch.cuda.is_available():
        sys.exit(f"error: JAX runs on {jax.default_backend()} and PyTorch on {DEVICE}")
    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")


def random_gpt2(size, **fields):
    """A model of this size; other fields of its config may be given."""
    torch.manual_seed(0)
    width, layers, heads = SIZES[size]
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=width, n_layer=layers, n_head=heads, **fields))
