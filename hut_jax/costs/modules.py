"""The modules that a forward pass runs: how much each returns, and the parameters it owns."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from hut_jax.core.trees import Path


class Call(NamedTuple):
    """A module that ran.

    Attributes:
        returned: the size of the array that it returned.
        leaves: the shapes of its own parameters. If layers are scanned, the shapes are those of one layer.
    """

    returned: int
    leaves: Mapping[str, tuple[int, ...]]


def module_calls(forward: Callable[..., Any], *args: Any) -> dict[Path, Call]:
    """The modules that ran, by path. Nothing is computed.

    Args:
        forward: a function that applies a Linen model.
        *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
    """
    calls = {}

    def note(next_fun, args, kwargs, context):
        module, result = context.module, next_fun(*args, **kwargs)
        if context.method_name == "__call__" and module.scope is not None and isinstance(result, jax.Array):
            own = module.variables.get("params", {})
            leaves = {name: leaf.shape for name, leaf in own.items() if not isinstance(leaf, Mapping)}
            calls[module.scope.path] = Call(result.size, leaves)
        return result

    with nn.intercept_methods(note):
        jax.eval_shape(forward, *args)
    return calls
