"""Convert between separate layers, `layer_{i}/...`, and layers stacked on a first axis for `nn.scan`, `layers/...`."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from hut_jax.core.trees import Path, flatten, unflatten

Tree = Mapping[str, Any]


def scanned(path: Path) -> tuple[Path, int | None]:
    """The path of the stacked parameter that holds this one, and this one's index on its leading axis.

    A parameter outside of the layers keeps its path and has no index.
    """
    match = re.fullmatch(r"layer_(\d+)", path[0]) if len(path) > 1 else None
    return (("layers", *path[1:]), int(match[1])) if match else (path, None)


def stack_layers(params: Tree) -> dict[str, Any]:
    """Stack separate layers: give the parameters (or factors) of the same model with `scan_layers`."""
    stacked: dict[Path, Any] = {}
    for path, leaf in flatten(params).items():
        target, depth = scanned(path)
        if depth is None:
            stacked[target] = leaf
        else:
            stacked.setdefault(target, {})[depth] = leaf
    return unflatten(
        {
            path: jnp.stack([leaf[i] for i in sorted(leaf)]) if isinstance(leaf, dict) else leaf
            for path, leaf in stacked.items()
        }
    )


def stacked_as(tree: Tree, params: Tree) -> dict[str, Any]:
    """Stack the separate layers of `tree`, if those of `params` are stacked."""
    return stack_layers(tree) if "layers" in params else dict(tree)


def unstack_layers(params: Tree) -> dict[str, Any]:
    """The inverse of `stack_layers`. A `layers` whose leaves differ in the leading axis stays as it is."""
    flat = flatten(params)
    depths = {np.shape(leaf)[:1] for path, leaf in flat.items() if _is_stacked(path)}
    if len(depths) != 1 or () in depths:
        return unflatten(flat)
    ((depth,),) = depths
    separate = {}
    for path, leaf in flat.items():
        if _is_stacked(path):
            separate.update({(f"layer_{i}", *path[1:]): leaf[i] for i in range(depth)})
        else:
            separate[path] = leaf
    return unflatten(separate)


def _is_stacked(path: Path) -> bool:
    # Names that are numbers are those of a list in an NNX model, whose layers are separate.
    return path[0] == "layers" and len(path) > 1 and not path[1].isdigit()
