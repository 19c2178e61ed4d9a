"""The environment of the tests."""

import os
import threading
from importlib.metadata import version
from pathlib import Path


def set_environment() -> None:
    """Eight virtual devices, and compiled code that is kept. To be called before jax and PyTorch are imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Each worker has one core. A thread of PyTorch keeps a core busy while it waits. With a thread for each core the
    # workers slowed each other: the tests against PyTorch took a third to a half longer.
    os.environ["OMP_NUM_THREADS"] = "1"
    # Programs this small run no faster for XLA's optimisations, which take long. Each is compiled once: all workers,
    # and the commands that tests start, share what was compiled.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    # JAX looks up where in the source each operation stands, and no test reads it.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
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


def reuse_contexts() -> None:
    """Let JAX 0.10 lower ten programs in one MLIR context, as JAX 0.12 does by itself.

    JAX 0.10 makes a context for each program, which takes longer than the rest of lowering a small one.
    """
    if not version("jax").startswith("0.10."):
        return
    from jax._src.interpreters import mlir

    make, own = mlir.make_ir_context, threading.local()

    def make_or_reuse():
        if not getattr(own, "left", 0):
            own.context, own.left = make(), 10
        own.left -= 1
        return own.context

    mlir.make_ir_context = make_or_reuse
