"""The same adapters on models of Flax NNX. Imports adapters, transforms and core.

model = hut_jax.nnx.adapt(model, adapter, rngs=nnx.Rngs(0))
optimizer = nnx.Optimizer(model, adapter.optimizer(optax.adamw, 2e-2, params=model), wrt=hut_jax.nnx.Factors)
plain = hut_jax.nnx.merge(model)
"""

from hut_jax.nnx.adapting import adapt
from hut_jax.nnx.factors import Factors, factors, set_factors
from hut_jax.nnx.layouts import laid_out
from hut_jax.nnx.merging import base, merge
from hut_jax.nnx.rows import apply_rows

__all__ = ["Factors", "adapt", "apply_rows", "base", "factors", "laid_out", "merge", "set_factors"]
