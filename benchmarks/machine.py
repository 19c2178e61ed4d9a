"""What the benchmarks report about the machine."""

import os
import platform

import jax


def machine(*libraries):
    """The device, the machine, its load, and the versions of jax and these libraries."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": {library.__name__: library.__version__ for library in (jax, *libraries)},
    }
