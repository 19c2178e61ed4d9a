"""What a run says of its machine."""

import platform
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from hut_jax.runs.machine import device_name, peak_bytes, processor


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx avx2\n\nprocessor\t: 1\n", "AMD EPYC, avx2"),
        ("model name\t: Intel(R) Xeon(R)\nflags\t\t: avx avx2 avx512f avx512bw\n", "Intel(R) Xeon(R), avx512f"),
        ("processor\t: 0\nFeatures\t: fp asimd aes\n", f"{platform.machine()}, asimd"),
        ("", platform.machine()),
    ],
)
def test_a_processor_is_known_by_name_and_widest_vectors(cpuinfo, name):
    assert processor(cpuinfo) == name


def test_the_devices_are_counted_and_named():
    assert re.fullmatch(rf"{jax.device_count()} x .+", device_name())


def test_the_peak_is_the_devices_own_where_it_has_one(monkeypatch):
    stats = {"peak_bytes_in_use": 7, "bytes_in_use": 5}
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: stats)])
    assert peak_bytes() == 7


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak in /proc")
def test_elsewhere_the_peak_is_the_processs():
    linux = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak_bytes() == pytest.approx(1024 * int(linux[1]), rel=0.05)
