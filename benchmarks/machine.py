"""What the benchmarks report about the machine."""

import os
import platform
import re
from pathlib import Path

import jax


def machine(*libraries):
    """The device, the machine, its load, and the versions of jax and these libraries."""
    return {
        "device": jax.devices()[0].device_kind,
        "processor": processor(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": {library.__name__: library.__version__ for library in (jax, *libraries)},
    }


def processor():
    """The processor's name, family and model. Clouds hide the number in the name, and the family tells generations."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = [re.search(rf"^{field}\s*: *(.+)$", text, re.MULTILINE) for field in ("model name", "cpu family", "model")]
    return " ".join(f"{word}{match[1]}" for word, match in zip(("", "family ", "model "), found, strict=True) if match)
