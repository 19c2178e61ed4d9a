"""Spell out the layouts that the types of a model's modules tell."""

import re
from dataclasses import replace

from flax import nnx

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.layout import read_layout
from hut_jax.adapters.targets import first_match
from hut_jax.core.any_tree import flatten_any
from hut_jax.core.errors import UserError
from hut_jax.core.trees import show


def laid_out(adapter: Adapter, model: nnx.Module) -> Adapter:
    """The adapter with a `layout` for each kernel whose shape alone does not tell its axes, as the model's modules do.

    With the model itself an adapter needs no layouts: the modules' types tell them. The model's bare state has no
    types, and neither has the Linen model to which a saved adapter may go.

    Raises:
        UserError: as `Adapter.sites`.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten_any(model).items()}
    rules = []
    for site in adapter.sites(model):
        if site.layout is not None and first_match(adapter.layout, site.path, site.kernel) is None:
            try:
                read = read_layout(site.kernel, shapes, site.bias).letters
            except UserError:
                read = None
            if read != site.layout.letters:
                rules.append((f"^{re.escape(show(site.kernel))}$", site.layout.letters))
    return replace(adapter, layout=(*adapter.layout, *rules)) if rules else adapter
