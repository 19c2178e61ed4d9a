"""How the axes of kernels are read in Flax's own NNX modules: their types and settings tell it."""

from typing import Any

from flax import nnx

from hut_jax.core.any_tree import value_of
from hut_jax.core.nnx_walk import variables
from hut_jax.core.trees import Path


def told_layouts(model: nnx.Module) -> dict[Path, str]:
    """The layouts of the kernels of Flax's own modules, by path: a letter for each axis, as in `Adapter.layout`.

    Leading axes that a module of this type does not have are stacked layers.
    """
    told = {}
    for held in variables(model):
        if held.within in (("kernel",), ("embedding",)):
            letters, axes = layer_letters(held.module), value_of(held.variable).ndim
            if letters is not None and len(letters) <= axes:
                told[*held.path, *held.within] = "l" * (axes - len(letters)) + letters
    return told


def layer_letters(module: Any) -> str | None:
    """The layout of one layer's kernel by the module's type and settings; None if they do not tell it."""
    if isinstance(module, nnx.Linear | nnx.Embed):
        return "io"
    if isinstance(module, nnx.LinearGeneral):
        return "l" * len(module.batch_axis) + "i" * len(module.in_features) + "o" * len(module.out_features)
    if isinstance(module, nnx.Einsum):
        parts = parts_of(module.einsum_str)
        if parts is None:
            return None
        x, kernel, y = parts
        roles = {c: "l" if c in x and c in y else "i" if c in x else "o" if c in y else "?" for c in kernel}
        letters = "".join(roles[c] for c in kernel)
        return None if "?" in letters or not {"i", "o"} <= set(letters) else letters
    if isinstance(module, nnx.ConvTranspose):
        return "i" * len(module.kernel_size) + ("oi" if module.transpose_kernel else "io")
    if isinstance(module, nnx.Conv):
        return "i" * (len(module.kernel_size) + 1) + "o"
    return None


def parts_of(equation: str | None) -> tuple[str, str, str] | None:
    """Input, kernel and output of an equation, if each names its axes once."""
    if equation is None:
        return None
    inputs, _, result = equation.replace(" ", "").partition("->")
    x, _, kernel = inputs.partition(",")
    named = [part.replace("...", "") for part in (x, kernel, result)]
    if "..." in kernel or any(len(set(part)) != len(part) for part in named):
        return None
    return x, kernel, result
