"""The machine that a run has: what it is, and how much memory was taken."""

import platform
import re
import resource
from pathlib import Path

import jax

VECTORS = ("avx512f", "avx2", "avx", "sve", "asimd")
"""What a processor's flags may have, the widest first."""


def device_name() -> str:
    """How many devices of which kind, such as "8 x NVIDIA H200" or "1 x cpu (AMD EPYC, avx2)"."""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {f'cpu ({_this_processor()})' if kind == 'cpu' else kind}"


def processor(cpuinfo: str) -> str:
    """The processor that a text like Linux's `/proc/cpuinfo` describes, and the widest vectors that it takes."""
    name = re.search(r"^model name\s*: *(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    widest = [vector for vector in VECTORS if flags and vector in flags[1].split()]
    return ", ".join([name[1] if name else platform.machine(), *widest[:1]])


def _this_processor() -> str:
    try:
        return processor(Path("/proc/cpuinfo").read_text())
    except OSError:
        return platform.processor() or platform.machine()


def peak_bytes() -> int:
    """The most memory that was taken: on a device where it can tell, else by this process."""
    of_device = jax.local_devices()[0].memory_stats() or {}
    return of_device.get("peak_bytes_in_use") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
