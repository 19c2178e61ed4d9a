"""Adapters of Hugging Face PEFT: its folders read into ours, and ours written as its own."""

from hut_jax.interop.load import load_peft
from hut_jax.interop.save import save_peft

__all__ = ["load_peft", "save_peft"]
