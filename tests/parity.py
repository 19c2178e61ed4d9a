"""Parity with a reference that was not written here, and its negative control."""

import jax
import numpy as np

WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Options of `jax.jit`. On a CPU with AVX2 alone, XLA's products by this library round up to five times as much."""


def change(params):
    """The parameters, each 1 % larger: for a compiled function arguments like any other, and another model."""
    return jax.tree.map(lambda leaf: (np.asarray(leaf) * 1.01).astype(leaf.dtype), params)


def check_parity(ours, theirs, changed, tolerance):
    """Assert that our arrays are the reference's, and that those of another model are not, so that this can fail.

    All three are trees alike. Every array of the changed model must differ by far more than the tolerance. An array
    of zeros within the tolerance, such as the gradient of a key's bias, is left out of that; not all arrays may be.
    """
    controlled = 0
    for (path, a), b, c in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), jax.tree.leaves(changed), strict=True
    ):
        name, a, b, c = jax.tree_util.keystr(path), np.asarray(a), np.asarray(b), np.asarray(c)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)
        if np.abs(b).max() > tolerance:
            excess = (np.abs(c - b) / (tolerance + tolerance * np.abs(b))).max()
            assert excess > 3, f"{name} is the reference's for other parameters, too: {excess:.2g} tolerances apart"
            controlled += 1
    assert controlled, "the reference is zero everywhere"
