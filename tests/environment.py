"""The environment of the tests."""

import os
from importlib.metadata import version
from pathlib import Path


def set_environment() -> None:
    """Eight virtual devices, and compiled code that is kept. To be called before jax is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Most of the tests' time goes into XLA's compiler. Programs this small run no faster for its optimisations, and
    # each is compiled once: all workers, and the commands that tests start, share what was compiled.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            "--xla_force_host_platform_device_count=8",
            "--xla_cpu_parallel_codegen_split_count=1",
            # Later versions do not know this one, and stop at a flag that they do not know.
            "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
        ]
    )
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
