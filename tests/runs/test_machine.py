"""What a run says of its machine."""

import platform
import re

import jax.numpy as jnp
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


def test_the_device_is_named_and_its_peak_counts_what_was_held():
    assert re.fullmatch(r"\d+ x .+", device_name())
    held = jnp.ones(25_000_000, jnp.float32).block_until_ready()
    assert peak_bytes() >= held.nbytes
