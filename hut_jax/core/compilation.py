"""What XLA compiled is kept on disk: the same command reaches its first step sooner the next time."""

import hashlib
import os
from pathlib import Path

import jax

MOST_BYTES = 2 * 2**30
"""Beyond them what was used least recently goes."""


def keep_compiled() -> None:
    """Keep compiled code in the user's cache folder, unless JAX has been told where to keep it, or not to.

    `JAX_COMPILATION_CACHE_DIR` names another folder, and `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hut_jax" / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # However short: a run has dozens of small programs, which together hold up a second start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """A name for what this processor can do: a home may be shared by machines, and JAX takes any CPU for the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "any"
    able = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(able).encode()).hexdigest()[:12]
