"""The fields, embeddings and stack of layers that all models share."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from hut_jax.models.attention import check_attention
from hut_jax.models.layers import recomputed
from hut_jax.parallel.activations import gathered


class Embed(nn.Embed):
    """`nn.Embed` that on a mesh gathers its table before the lookup, as other layers gather their kernels."""

    def __call__(self, inputs: Any) -> Array:
        """The rows of the table with these ids."""
        if self.num_embeddings == 1:
            return super().__call__(inputs)
        (table,) = self.promote_dtype(self.embedding, dtype=self.dtype, inexact=False)
        return jnp.take(gathered(jnp.asarray(table)), inputs, axis=0)


class Transformer(nn.Module):
    """A transformer with embeddings and a stack of equal layers.

    Attributes:
        config: the sizes and dropout probabilities, with the same fields as config.json.
        dtype: the dtype of the computation. The parameters may have another.
        remat: see `compute.Compute`, also for the next two.
        scan_layers: whether the layers are one `nn.scan`.
        attention: "xla" or "cudnn".
    """

    config: Any
    dtype: Any = jnp.float32
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "xla"

    @nn.nowrap
    def embedding(self, count: int, width: int) -> Embed:
        """An embedding table initialised as the config says."""
        normal = nn.initializers.normal(self.config.initializer_range)
        return Embed(count, width, dtype=self.dtype, embedding_init=normal)

    @nn.nowrap
    def add_layers(
        self,
        layer: type[nn.Module],
        head_width: int,
        *,
        deterministic: int,
        in_axes: tuple[Any, ...],
        trace_twice: bool = True,
    ) -> None:
        """Set `self.layer`, a list of modules; with `scan_layers` set `self.layers`, one scanned module.

        Args:
            layer: the class of one layer, with fields `config`, `dtype` and `attention`.
            head_width: the width of an attention head.
            deterministic: which argument of the layer's call is `deterministic`, counting self.
            in_axes: of `nn.scan`, for the arguments of the layer's call after the first.
            trace_twice: of `nn.scan`, which checks something that is of no use here. Without it a scanned layer has
                other random numbers, and a stopped run would not end as it did.

        Raises:
            UserError: this machine or model does not support the attention, or there is no such `remat`.
        """
        c = self.config
        check_attention(self.attention, self.dtype, head_width)
        layer = recomputed(layer, self.remat, deterministic=deterministic, scanned=self.scan_layers)
        fields = c, self.dtype, self.attention
        if not self.scan_layers:
            self.layer = [layer(*fields) for _ in range(c.n_layer)]
            return
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0, "adapter": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=in_axes,
            length=c.n_layer,
            check_constancy_invariants=trace_twice,
        )(*fields)
