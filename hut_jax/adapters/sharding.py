"""How factors are split over a mesh: along the axes of their kernel, and never along the rank.

Each device then forms its own part of W, without communication.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from jax.sharding import PartitionSpec

from hut_jax.adapters.site import Site
from hut_jax.core.any_tree import is_plain
from hut_jax.core.trees import Path, flatten


def factor_specs(sites: Sequence[Site], params: Mapping[Path, PartitionSpec]) -> dict[Path, PartitionSpec]:
    """How each factor is split, by path.

    Args:
        sites: the adapter's.
        params: how each parameter is split, as `param_specs` gives it.
    """
    return {
        (*site.path, name): PartitionSpec(*axes)
        for site in sites
        for name, axes in shared_axes(site, tuple(params[site.kernel])).items()
    }


def boxed_factors(factors: Mapping[Path, Any], sites: Sequence[Site], params: Any) -> dict[Path, Any]:
    """The factors by path, each in a box as its kernel's if that is an `nn.Partitioned`, with the names of its axes."""
    if not is_plain(params):
        return dict(factors)
    flat = flatten(params)
    boxed = dict(factors)
    for site in sites:
        box = flat[site.kernel]
        if isinstance(box, nn.Partitioned):
            for name, axes in shared_axes(site, box.names).items():
                boxed[*site.path, name] = box.replace(value=factors[*site.path, name], names=axes)
    return boxed


def shared_axes(site: Site, kernel: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """What is said of each axis of a kernel, said of the axes of its factors."""
    if site.layout is None:
        return {name: tuple(kernel) for name in site.factors}
    said = (*kernel, *(None,) * len(site.shape))[: len(site.shape)]
    # Axes that are flattened into one are as the first of them, the outermost, is.
    along = {"d": said[site.layout.axes("i")[0]], "k": said[site.layout.axes("o")[0]], None: None}
    stack = [said[axis] for axis in site.layout.axes("l")]
    return {name: (*stack, *(along[axis] for axis in axes)) for name, axes in site.factor_axes.items()}
