"""Keep compiled code on disk, so that the next run of a command reaches its first step sooner."""

import hashlib
import os
from pathlib import Path

import jax

MOST_BYTES = 2 * 2**30
"""The most bytes that are kept. Beyond them, the code that was used least recently is deleted."""


def keep_compiled() -> None:
    """Keep compiled code in the user's cache folder, unless JAX already has a folder for it.

    `JAX_COMPILATION_CACHE_DIR` names another folder. `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hut_jax" / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the home folder is not writable
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # Keep even what compiles fast: a run has dozens of small programs, which together delay the next start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """A name for this processor's features, since machines may share a home and JAX does not tell CPUs apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "any"
    able = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(able).encode()).hexdigest()[:12]
