"""GPT-2's fused `c_attn` and our query, key and value: low-rank factors of one layer, and of several beside each other.

Fused to apart, A is shared and B is cut by outputs. Apart to fused, A's are put side by side and B's become the blocks
of a diagonal; where all A's are equal, one is enough. Either way there and back is what was given.
"""

from collections.abc import Mapping

import numpy as np

from hut_jax.interop.layers import Layer
from hut_jax.interop.method import Arrays


def separated(layer: Layer, factors: Arrays) -> dict[str, Arrays]:
    """Each of our layers' own factors, by path.

    Args:
        layer: the module.
        factors: its, as ours: those whose names begin with a are `[d, r]`, all others have the outputs last.
    """
    apart = {
        path: {name: factor if name.startswith("a") else factor[..., columns] for name, factor in factors.items()}
        for path, columns in layer.columns()
    }
    return apart if len(apart) == 1 else _untangled(apart)


def _untangled(apart: dict[str, Arrays]) -> dict[str, Arrays]:
    """Without layers that do nothing beside one that acts, and without the zeros of a block diagonal."""
    acting = {path: own for path, own in apart.items() if own["b"].any() or ("g" in own and own["g"].any())}
    if not acting:
        return apart  # nothing has trained yet: all of them are to
    used = {path: own["b"].any(axis=1) for path, own in acting.items()}
    rows = np.stack(list(used.values()))  # one for each layer, a column for each rank
    if rows.sum(axis=0).max() > 1 or not rows.any(axis=1).all():
        return acting
    return {path: own | {"a": own["a"][:, used[path]], "b": own["b"][used[path]]} for path, own in acting.items()}


def joined(layer: Layer, own: Mapping[str, Arrays], scales: Mapping[str, float]) -> tuple[Arrays, float]:
    """One a and b for the module, and what their product is multiplied by.

    Args:
        layer: the module.
        own: our layers' factors by path; those of some may be missing.
        scales: what the product of each is multiplied by.
    """
    paths = [path for path in layer.paths if path in own]
    first, scale = own[paths[0]]["a"], scales[paths[0]]
    shared = all(np.array_equal(own[path]["a"], first) for path in paths)
    ranks = {path: own[path]["a"].shape[1] for path in paths}
    a = first if shared else np.concatenate([own[path]["a"] for path in paths], axis=1)
    b = np.zeros((a.shape[1], layer.outputs), np.float32)
    row = 0
    for path, columns in layer.columns():
        if path in own:
            b[row : row + ranks[path], columns] = own[path]["b"] * np.float32(scales[path] / scale)
            row += 0 if shared else ranks[path]
    return {"a": a, "b": b}, scale
