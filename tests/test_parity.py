"""The comparison with references can itself fail."""

import numpy as np
import pytest

from tests.parity import change, check_parity

ARRAYS = {"a": np.float32([1.0, -2.0]), "b": np.float32([3.0])}
NEAR = {"a": np.float32([1.0, -2.0001]), "b": np.float32([3.0])}


def test_parity_is_near_the_reference_with_a_changed_model_that_is_not():
    zero = {"key_bias": np.zeros(2, np.float32)}
    check_parity(NEAR | zero, ARRAYS | zero, change(ARRAYS) | zero, 1e-3)
    for ours, theirs, changed, message in [
        (change(ARRAYS), ARRAYS, change(ARRAYS), "Not equal to tolerance"),
        (NEAR, ARRAYS, change(ARRAYS) | {"b": ARRAYS["b"]}, r"\['b'\] is the reference's for other parameters, too"),
        (zero, zero, change(zero), "the reference is zero everywhere"),
    ]:
        with pytest.raises(AssertionError, match=message):
            check_parity(ours, theirs, changed, 1e-3)
