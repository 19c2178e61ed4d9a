"""Models with random weights in PyTorch, and PyTorch set up to be compared with JAX on the same device."""

import os
import sys

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves PyTorch some of the GPU's memory

import jax
import torch
import transformers

from benchmarks.training import MODELS

SIZES = {
    "small": MODELS["gpt2-small"],
    "medium": MODELS["gpt2-medium"],
    "tiny": MODELS["gpt2-tiny"] | {"vocab_size": 50257},
    "smollm2": MODELS["smollm2"],
    "smollm2-tiny": MODELS["smollm2-tiny"] | {"vocab_size": 50257},
    "llama-1b": MODELS["llama-1b"],
}
"""GPT-2's, SmolLM2's and Llama 3.2's."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def use_the_device_of_jax():
    """Exit unless PyTorch runs on JAX's device; multiply float32 in TF32 on a GPU, as JAX does."""
    if (jax.default_backend() == "gpu") != torch.cuda.is_available():
        sys.exit(f"error: JAX runs on {jax.default_backend()} and PyTorch on {DEVICE}")
    if DEVICE == "cuda":
        torch.set_float32_matmul_precision("high")


def random_model(size, **fields):
    """A causal model of this size; other fields of its config may be given."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**SIZES[size] | fields)
    return transformers.AutoModelForCausalLM.from_config(config)
