"""The activations of transformers by its names for them: those without parameters, and two that learn theirs."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_tanh_gelu = functools.partial(nn.gelu, approximate=True)
_gelu = functools.partial(nn.gelu, approximate=False)

FIXED: dict[str, Callable[[Array], Array]] = {
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), _tanh_gelu),
    **dict.fromkeys(("gelu", "gelu_python"), _gelu),
    "gelu_10": lambda x: jnp.clip(_gelu(x), -10, 10),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "relu2": lambda x: jnp.square(nn.relu(x)),
    "relu6": nn.relu6,
    "leaky_relu": nn.leaky_relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "hardswish": nn.hard_swish,
    "mish": lambda x: x * nn.tanh(nn.softplus(x)),
    "sqrtsoftplus": lambda x: jnp.sqrt(nn.softplus(x)),
    "laplace": lambda x: 0.5 * (1 + jax.lax.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "linear": lambda x: x,
}
"""The activations without parameters."""


class PReLU(nn.Module):
    """A ReLU with a learned slope below 0 (He et al., "Delving Deep into Rectifiers", arXiv 1502.01852, 2015)."""

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Apply it to each element."""
        slope = self.param("slope", nn.initializers.constant(0.25), (1,)).astype(x.dtype)
        return jnp.where(x >= 0, x, slope * x)


class XIELU(nn.Module):
    """The xIELU of "Deriving Activation Functions Using Integration" (Huang and Schlag, arXiv 2411.13010, 2024).

    Above 0 its derivative is linear, below 0 an exponential less a constant. Both curvatures are learned. `beta` is the
    slope at 0, and `eps` keeps expm1 from 0; these two are in the files, too, and do not train.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Apply it to each element."""

        def value(name: str, start: float, *shape: int) -> Array:
            return self.param(name, nn.initializers.constant(start), shape).astype(x.dtype)

        beta, eps = (jax.lax.stop_gradient(value(name, start)) for name, start in (("beta", 0.5), ("eps", -1e-6)))
        above = nn.softplus(value("alpha_p", math.log(math.expm1(0.8)), 1))
        below = nn.softplus(value("alpha_n", math.log(math.expm1(0.3)), 1))
        curved = jnp.where(x > 0, above * x * x, (beta + below) * (jnp.expm1(jnp.minimum(x, eps)) - x))
        return curved + beta * x


LEARNED: dict[str, type[nn.Module]] = {"prelu": PReLU, "xielu": XIELU}
"""The activations with parameters, of which each layer has its own."""

ACTIVATIONS = (*FIXED, *LEARNED)
"""The names of all activations."""

PARAMETERS = {"prelu": {"weight": "slope"}, "xielu": {name: name for name in ("alpha_p", "alpha_n", "beta", "eps")}}
"""The names of the learned activations' tensors in Hugging Face's files, beside our names."""


def activation(name: str) -> Callable[[Any], Any]:
    """The activation of this name. One that learns is a submodule "activation" of the module that calls this."""
    function = LEARNED[name](name="activation") if name in LEARNED else FIXED[name]
    return functools.partial(_rounded_once, function)


def _rounded_once(function: Callable[[Array], Array], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The function of x. A CPU rounds after each operation in bf16, which takes long. So there it computes in fp32."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return function(x.astype(wide)).astype(x.dtype) if jax.default_backend() == "cpu" else function(x)
