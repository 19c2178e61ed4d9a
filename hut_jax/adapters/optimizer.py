"""The learning-rate multipliers of an adapter's factors."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.core.trees import unflatten


def learning_rate_multipliers(adapter: Adapter, params: Mapping[str, Any], *, also_train: float = 1.0) -> PyTree[float]:
    """The learning-rate multiplier of each factor, as a tree like the factors'.

    Args:
        adapter: what the factors belong to.
        params: the base's parameters, or their shapes.
        also_train: the multiplier of the modules that train in full beside the factors.
    """
    return unflatten(
        {
            (*site.path, name): (also_train if site.also else 1.0)
            * site.transform.learning_rate_multipliers.get(name, 1.0)
            for site in adapter.sites(params)
            for name in site.factors
        }
    )
