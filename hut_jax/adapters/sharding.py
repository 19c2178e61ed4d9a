"""How factors are split over a mesh: as their kernel is, and never along the rank. So W is built where W0 lies."""

from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec

from hut_jax.adapters.site import Site
from hut_jax.core.trees import Path


def factor_specs(sites: Sequence[Site], params: Mapping[Path, PartitionSpec]) -> dict[Path, PartitionSpec]:
    """How each factor is split, by path: as its kernel is, and not along the rank.

    Args:
        sites: the adapter's.
        params: what `param_specs` gives.
    """
    specs = {}
    for site in sites:
        if site.layout is None:
            specs.update({(*site.path, name): params[site.path] for name in site.factors})
            continue
        kernel = (*params[*site.path, "kernel"], *(None,) * len(site.shape))[: len(site.shape)]
        stack, inputs = site.layout.stacked, site.layout.inputs
        # Several axes that are read as one are split as one where the first of them, the outermost, is.
        along = {"d": kernel[stack], "k": kernel[stack + inputs], None: None}
        for name, axes in site.factor_axes.items():
            specs[*site.path, name] = PartitionSpec(*kernel[:stack], *(along[axis] for axis in axes))
    return specs
