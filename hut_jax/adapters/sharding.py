"""How factors are split over a mesh: along the axes of their kernel, and never along the rank.

Each device then forms its own part of W, without communication.
"""

from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec

from hut_jax.adapters.site import Site
from hut_jax.core.trees import Path


def factor_specs(sites: Sequence[Site], params: Mapping[Path, PartitionSpec]) -> dict[Path, PartitionSpec]:
    """How each factor is split, by path.

    Args:
        sites: the adapter's.
        params: how each parameter is split, as `param_specs` gives it.
    """
    specs = {}
    for site in sites:
        if site.layout is None:
            specs.update({(*site.path, name): params[site.path] for name in site.factors})
            continue
        kernel = (*params[*site.path, "kernel"], *(None,) * len(site.shape))[: len(site.shape)]
        stack, inputs = len(site.layout.stack), len(site.layout.inputs)
        # Axes that are flattened into one are split as the first of them, the outermost, is.
        along = {"d": kernel[stack], "k": kernel[stack + inputs], None: None}
        for name, axes in site.factor_axes.items():
            specs[*site.path, name] = PartitionSpec(*kernel[:stack], *(along[axis] for axis in axes))
    return specs
