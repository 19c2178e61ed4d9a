"""How programs that run a model are compiled, and their code kept on disk for the next run of a command."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hut_jax.core.processor import fingerprint

MOST_BYTES = 2 * 2**30
"""The most bytes that are kept. Beyond them, the code that was used least recently is deleted."""


_WIDENS_SLICES = jax.__version_info__ < (0, 11, 2)
"""Whether XLA slices bf16 arrays in fp32 on a CPU."""

_NO_HOISTING = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}


class Program:
    """`jax.jit` for a function that runs a model, faster where a CPU loops over a stack of bf16 kernels.

    Before JAX 0.11.2 a CPU slices bf16 arrays in fp32. So a loop over layers converts the stack of all kernels for each
    layer. XLA sees that this is the same every time, and converts the stack once, before the loop. The loop then reads
    twice the bytes, and the copy takes memory. Without this pass of XLA no more than the slice is converted.

    The pass stays on where the user gave XLA a list of passes to leave out, and within other traced functions, because
    JAX takes options of the outermost `jax.jit` alone.

    Args:
        function: as for `jax.jit`. Work that is the same in all turns of a loop must stand outside of it: XLA does not
            move it.
        **options: of `jax.jit`.

    Attributes:
        plain: `jax.jit` of the function. XLA moves work out of its loops.
    """

    def __init__(self, function: Callable[..., Any], **options: Any):
        self.plain = jax.jit(function, **options)
        self._unhoisted = jax.jit(function, compiler_options=_NO_HOISTING, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `jax.jit`."""
        return self._chosen(args, kwargs)(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """As `jax.jit`."""
        return self._chosen(args, kwargs).lower(*args, **kwargs)

    def _chosen(self, *given: Any) -> Any:
        has_bf16 = any(getattr(leaf, "dtype", None) == jnp.bfloat16 for leaf in jax.tree.leaves(given))
        if not (_WIDENS_SLICES and has_bf16 and jax.default_backend() == "cpu"):
            return self.plain
        told = "xla_disable_hlo_passes" in os.environ.get("XLA_FLAGS", "")
        traced = isinstance(jnp.zeros(()), jax.core.Tracer)
        return self.plain if told or traced or _has_tracer(given) else self._unhoisted


def _has_tracer(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def keep_compiled() -> None:
    """Keep compiled code in the user's cache folder, unless JAX already has a folder for it.

    `JAX_COMPILATION_CACHE_DIR` names another folder. `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hut_jax" / "compiled" / fingerprint()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the home folder is not writable
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # Keep even what compiles fast: a run has dozens of small programs, which together delay the next start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
