"""The machine of a run: its devices, the versions of its libraries, the commit of this one, and the peak memory."""

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
from pathlib import Path
from typing import Any

import jax

from hut_jax.core.version import VERSION

VECTORS = ("avx512f", "avx2", "avx", "sve", "asimd")
"""The vector instruction sets that a processor may have, the widest first."""


def describe_machine(*libraries: str) -> dict[str, Any]:
    """The devices, the operating system, and the versions of Python, this library and the named libraries.

    Libraries that are not installed are left out.
    """
    versions = {"hut_jax": VERSION, "python": platform.python_version()}
    for name in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "device": device_name(),
        "platform": platform.platform(),
        "versions": versions,
    }


@functools.cache  # of the code that this process imported
def commit() -> str:
    """The commit of this library, as `git describe` names it, with "-dirty" if tracked files have changed.

    It is that of the clone which the package is in, or else the one that pip installed. "" where there is none.
    """
    if _git("ls-files", Path(__file__).name):  # an environment in another clone is not tracked by it
        return _git("describe", "--always", "--dirty")
    try:
        source = importlib.metadata.distribution("hut_jax").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return json.loads(source or "{}").get("vcs_info", {}).get("commit_id", "")


def _git(*arguments: str) -> str:
    """What git prints, run in the folder of this file; "" if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
        )
    except OSError:  # there is no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def device_name() -> str:
    """The number and kind of the devices, such as "8 x NVIDIA H200" or "1 x cpu (AMD EPYC, avx2)"."""
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {f'cpu ({_this_processor()})' if kind == 'cpu' else kind}"


def processor(cpuinfo: str) -> str:
    """The processor's name and its widest vector instructions, from a text like Linux's `/proc/cpuinfo`."""
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
    """The peak memory in bytes.

    It is that of this process's first device. JAX does not report it for every kind of device. Where it does not, the
    result is the peak memory of the process.
    """
    of_device = jax.local_devices()[0].memory_stats() or {}
    return of_device.get("peak_bytes_in_use") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
