"""Read and write the adapters of Hugging Face PEFT. May import adapters and the folders below it."""

from hut_jax.interop.load import load_peft
from hut_jax.interop.save import save_peft

__all__ = ["load_peft", "save_peft"]
