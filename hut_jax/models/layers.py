"""The layers that the models share: dense, norm, feed-forward network; and how a layer is recomputed."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.products import dot_general, dots_saveable
from hut_jax.models.activations import activation
from hut_jax.models.shapes import Hidden, Indices
from hut_jax.parallel.activations import split_batch

REMAT: dict[str, Callable | None] = {
    "none": None,
    "dots": dots_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""The part of each layer that the backward pass recomputes: nothing, all but products with kernels, or everything.

In bf16 on a CPU a decoder's rotary positions are not recomputed either with "dots".
"""

# In bf16 the products are still summed and returned in fp32. Logits rounded to bf16 would have ties.
fp32_dot = functools.partial(dot_general, preferred_element_type=jnp.float32)


class MLP(nn.Module):
    """The position-wise feed-forward network.

    Attributes:
        inner: the width of its hidden layer.
        activation: one of `ACTIVATIONS`.
        std: the initial standard deviation of the first kernel.
        out_std: the initial standard deviation of the second kernel.
        dtype: of the computation.
    """

    inner: int
    activation: str
    std: float
    out_std: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        """Map width -> inner -> width."""
        y = split_batch(dense(self.inner, self.std, self.dtype, "up")(x), None, "tensor")
        return dense(x.shape[-1], self.out_std, self.dtype, "down")(activation(self.activation)(y))


def dense(features: int, std: float, dtype: Any, name: str | None = None, **options: Any) -> nn.Dense:
    """A dense layer whose kernel is initialised from a normal distribution.

    Args:
        features: the number of outputs.
        std: the initial standard deviation of the kernel.
        dtype: of the computation.
        name: the module's.
        **options: further fields of `nn.Dense`.
    """
    options = {"dot_general": dot_general} | options
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.normal(std), name=name, **options)


def layer_norm(epsilon: float, dtype: Any, name: str | None = None) -> nn.LayerNorm:
    """A layer norm with its statistics in fp32.

    The variance is computed from the deviations, since E[x²] - E[x]² loses digits if a model has large features.
    """
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def tied_logits(
    hidden: Float[Array, "*batch width"], table: Float[Array, "vocab width"], dtype: Any
) -> Float[Array, "*batch vocab"]:
    """The logits, in fp32, of a head whose kernel is the token embedding."""
    summed = ((hidden.ndim - 1,), (1,))
    return fp32_dot(hidden, table.astype(dtype), (summed, ((), ())))


def at_positions(hidden: Hidden, logits_at: Indices | None) -> Float[Array, "*n width"]:
    """The hidden states at these indices into the flattened `batch * length` positions; None: all, unchanged."""
    return hidden if logits_at is None else hidden.reshape(-1, hidden.shape[-1])[logits_at]


def recomputed(layer: Any, remat: str, *, deterministic: int, scanned: bool) -> Any:
    """A class of layers whose backward pass recomputes what `remat` names.

    Args:
        layer: a Linen class.
        remat: one of `REMAT`.
        deterministic: which argument of a call is `deterministic`, counting self.
        scanned: whether it is for `nn.scan`, in which XLA cannot merge the two computations anyway.

    Raises:
        UserError: there is no such `remat`.
    """
    if remat not in REMAT:
        raise UserError(f"remat is {remat!r}; {nearest(str(remat), REMAT)}")
    policy = REMAT[remat]
    if policy is None:
        return layer
    return nn.remat(layer, policy=policy, static_argnums=(deterministic,), prevent_cse=not scanned)
