"""A hash of a base's weights, by which an adapter recognises its base."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hut_jax.adapters.params import opened
from hut_jax.core.scanned_layers import unstack_layers
from hut_jax.core.trees import flatten, show, unflatten
from hut_jax.parallel.processes import fetch


def fingerprint(params: Mapping[str, Any]) -> str:
    """A SHA-256 over every parameter's path, dtype, shape and bytes, in the order of the paths.

    Layers stacked for `nn.scan` have the same fingerprint as separate layers. A parameter whose entries are all zero is
    left out. So a head that has not been trained yet does not change the fingerprint, whatever its number of labels.
    """
    digest = hashlib.sha256()
    params = unflatten(opened(params))
    # On a single CPU device fetching copies nothing, and unstacking the fetched layers copies nothing either.
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        params = fetch(params)
    flat = flatten(unstack_layers(params))
    for path in sorted(flat, key=lambda path: (show(path), path)):
        for leaf in map(fetch, jax.tree.leaves(flat[path])):  # one, but for an array type of another library
            if not leaf.any():
                continue
            digest.update(f"{show(path)} {leaf.dtype} {leaf.shape}\n".encode())
            digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()
