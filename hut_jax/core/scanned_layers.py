"""Layers apart, `layer_{i}/...`, and layers stacked for `nn.scan`, `layers/...` with a leading axis."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from hut_jax.core.trees import flatten, unflatten

Tree = Mapping[str, Any]


def scanned(path: str) -> tuple[str, int | None]:
    """Where a parameter's path leads with `scan_layers`: the stacked one's, and the place on its leading axis."""
    match = re.match(r"layer_(\d+)/", path)
    return (f"layers/{path[match.end() :]}", int(match[1])) if match else (path, None)


def stack_layers(params: Tree) -> dict[str, Any]:
    """The parameters (or factors) of a model with `scan_layers`, from those of the same model without."""
    stacked: dict[str, Any] = {}
    for path, leaf in flatten(params).items():
        place, depth = scanned(path)
        if depth is None:
            stacked[place] = leaf
        else:
            stacked.setdefault(place, {})[depth] = leaf
    return unflatten(
        {
            place: jnp.stack([leaf[i] for i in sorted(leaf)]) if isinstance(leaf, dict) else leaf
            for place, leaf in stacked.items()
        }
    )


def stacked_as(tree: Tree, params: Tree) -> dict[str, Any]:
    """The tree, of layers apart, as these parameters have their layers."""
    return stack_layers(tree) if "layers" in params else dict(tree)


def unstack_layers(params: Tree) -> dict[str, Any]:
    """The inverse of `stack_layers`. Where a `layers` has leaves without a leading axis in common, it is no stack."""
    flat = flatten(params)
    depths = {np.shape(leaf)[:1] for path, leaf in flat.items() if path.startswith("layers/")}
    if len(depths) != 1 or () in depths:
        return unflatten(flat)
    ((depth,),) = depths
    plain = {}
    for path, leaf in flat.items():
        if path.startswith("layers/"):
            rest = path.removeprefix("layers/")
            plain.update({f"layer_{i}/{rest}": leaf[i] for i in range(depth)})
        else:
            plain[path] = leaf
    return unflatten(plain)
