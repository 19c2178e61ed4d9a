"""Low-rank factors of GPT-2's fused `c_attn`, and of our separate query, key and value.

To separate a fused layer, A is shared and B is split by outputs. To join separate layers, their A's are placed side by
side and their B's become the blocks of a diagonal; equal A's are kept once. Separating and joining again, or joining
and separating, gives back the factors.
"""

from collections.abc import Mapping

import numpy as np

from hut_jax.interop.layers import Layer
from hut_jax.interop.methods.base import Arrays


def separated(layer: Layer, factors: Arrays) -> dict[str, Arrays]:
    """The factors of each of our layers, by path.

    Args:
        layer: the module.
        factors: of the module, by our names: those that begin with a are `[d, r]`, all others have the outputs last.
    """
    apart = {
        path: {name: factor if name.startswith("a") else factor[..., columns] for name, factor in factors.items()}
        for path, columns in layer.columns()
    }
    return apart if len(apart) == 1 else _untangled(apart)


def _untangled(apart: dict[str, Arrays]) -> dict[str, Arrays]:
    """Drop the layers that change nothing, if another one does, and the zeros of a block diagonal."""
    acting = {path: own for path, own in apart.items() if own["b"].any() or ("g" in own and own["g"].any())}
    if not acting:
        return apart  # not trained yet: all layers are kept
    used = {path: own["b"].any(axis=1) for path, own in acting.items()}
    rows = np.stack(list(used.values()))  # [layers, rank]
    if rows.sum(axis=0).max() > 1 or not rows.any(axis=1).all():
        return acting
    return {path: own | {"a": own["a"][:, used[path]], "b": own["b"][used[path]]} for path, own in acting.items()}


def joined(layer: Layer, own: Mapping[str, Arrays], scales: Mapping[str, float]) -> tuple[Arrays, float]:
    """One a and b for the module, and the scaling of their product.

    Args:
        layer: the module.
        own: our layers' factors, by path. Some layers may have none.
        scales: the scaling of each layer's product.
    """
    paths = [path for path in layer.paths if path in own]
    first, scale = own[paths[0]]["a"], next((scales[path] for path in paths if scales[path]), 0.0)
    shared = all(np.array_equal(own[path]["a"], first) for path in paths)
    ranks = {path: own[path]["a"].shape[1] for path in paths}
    a = first if shared else np.concatenate([own[path]["a"] for path in paths], axis=1)
    b = np.zeros((a.shape[1], layer.outputs), np.float32)
    row = 0
    for path, columns in layer.columns():
        if path in own:
            ratio = scales[path] / scale if scale else 1.0
            b[row : row + ranks[path], columns] = own[path]["b"] * np.float32(ratio)
            row += 0 if shared else ranks[path]
    return {"a": a, "b": b}, scale
