"""Quantised tensors, against the dequantisation of the package gguf."""

import numpy as np
import pytest

from hut_jax.models.gguf import blocks
from tests.gguf_files import import_gguf, random_blocks

ROWS, WIDTH = 5, 512
FLOATS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def bytes_of(gguf, kind):
    """Rows of this type: quantised by the package, or, where it cannot, random blocks with small scales."""
    try:
        return gguf.quantize(FLOATS, kind).view(np.uint8)
    except NotImplementedError:
        return random_blocks(kind, ROWS, WIDTH, scale=0.03)


@pytest.mark.parametrize(
    "name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
)
def test_every_type_is_unpacked_as_the_package_unpacks_it(name, monkeypatch):
    gguf = import_gguf()
    kind = gguf.GGMLQuantizationType[name]
    raw = bytes_of(gguf, kind)
    items, size = blocks.block_of(int(kind), "t")
    assert ROWS * WIDTH // items * size == raw.size
    monkeypatch.setattr(blocks, "_STEP", 2 * WIDTH)  # some rows at a time
    found = blocks.unpack(raw.ravel(), int(kind), (ROWS, WIDTH))
    np.testing.assert_array_equal(found.astype(np.float32), gguf.dequantize(raw, kind))
    assert found.std() > 0.1
