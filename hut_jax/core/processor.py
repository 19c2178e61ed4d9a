"""What this machine's processor is able to do, since JAX does not tell CPUs apart."""

import functools
import hashlib
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def fingerprint() -> str:
    """A short name for the processor's model and features; "any" where the system does not tell them."""
    able = sorted({line for line in _lines() if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(able).encode()).hexdigest()[:12] if able else "any"


@functools.cache
def has_matrix_units() -> bool:
    """Whether the CPU has matrix units for bf16 that XLA uses, which are Intel's AMX. False where this is unknown."""
    return any(line.startswith("flags") and "amx_bf16" in line.split() for line in _lines())


def _lines() -> list[str]:
    try:
        return CPUINFO.read_text().splitlines()
    except OSError:
        return []
