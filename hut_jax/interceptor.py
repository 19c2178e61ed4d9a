"""The one place where factors meet a running module.

Factors live in a Flax variable collection, `adapter`, whose tree mirrors the modules' paths. The interceptor
holds no state of the model's: a dense layer whose scope has factors runs with its transformed kernel. Being
an ordinary variable collection, factors pass through `nn.remat`, `jit` and `vmap` as they are, and through
`nn.scan` where it is given an axis for them (`variable_axes={"params": 0, "adapter": 0}`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax

from hut_jax.errors import UserError
from hut_jax.transforms.base import Transform

COLLECTION = "adapter"


def interceptor(
    transform: Transform, inputs: Mapping[str, int], used: set[str]
) -> Callable[[Callable[..., Any], tuple, dict, nn.module.InterceptorContext], Any]:
    """An interceptor for `flax.linen.intercept_methods` that runs the modules at the given paths adapted.

    Args:
        transform: what to do with a kernel.
        inputs: from each targeted module's '/'-joined path to the number of its kernel's input axes.
        used: to which the path of each module that ran adapted is added.

    Raises:
        UserError: when the model runs, a targeted module is no `nn.Dense` or `nn.DenseGeneral`, or its factors
            do not reach it.
    """

    def intercept(next_fun, args, kwargs, context):
        module = context.module
        path = "/".join(module.scope.path) if module.scope is not None else ""
        if path not in inputs or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        _check(module, path, inputs[path])
        used.add(path)
        return _run(transform, module, inputs[path], args[0] if args else kwargs["inputs"])

    return intercept


def _run(transform: Transform, module: nn.Module, inputs: int, x: Any) -> Any:
    """The module's output for x, by the module's own code on a kernel and bias that the transformation gives."""
    variables = module.variables
    params, factors = dict(variables["params"]), dict(variables[COLLECTION])
    kernel, bias = params["kernel"], params.get("bias")
    outputs = kernel.shape[inputs:]
    bare = module.clone(parent=None, name=None)

    def dense(x, kernel_2d, bias_1d):
        changed = {"kernel": kernel_2d.reshape(kernel.shape)}
        if bias is not None:
            changed["bias"] = bias_1d.reshape(bias.shape)
        y = cast(jax.Array, bare.apply({"params": params | changed}, x))
        return y.reshape(*y.shape[: y.ndim - len(outputs)], -1)

    flat_kernel = kernel.reshape(math.prod(kernel.shape[:inputs]), -1)
    y = transform.forward(dense, x, flat_kernel, None if bias is None else bias.reshape(-1), factors)
    return y.reshape(*y.shape[:-1], *outputs)


def _check(module: nn.Module, path: str, inputs: int) -> None:
    if not isinstance(module, nn.Dense | nn.DenseGeneral):
        raise UserError(
            f"{path} is a {type(module).__name__}: only nn.Dense and nn.DenseGeneral can run with factors; "
            "merge them, adapter.merge(params, factors), and run the model plainly, or exclude the path"
        )
    if COLLECTION not in module.variables:
        raise UserError(
            f"the factors of {path} do not reach it: give the nn.scan or nn.vmap around it an axis for them, "
            f'variable_axes={{"params": 0, "{COLLECTION}": 0}}, or run the model on adapter.merge(params, factors)'
        )
    if isinstance(module, nn.DenseGeneral):
        if module.batch_dims:
            raise UserError(f"{path} is a DenseGeneral with batch_dims, which has no one kernel to transform")
        actual = 1 if isinstance(module.axis, int) else len(module.axis)
        if actual != inputs:
            raise UserError(
                f"{path} has {actual} input axes, and its factors were laid out for {inputs}; say so in layout="
            )
