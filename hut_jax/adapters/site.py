"""The places that an adapter acts on: their shapes, and one place's factors made and merged."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hut_jax.adapters.targets import Layout, first_match
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show
from hut_jax.transforms import Factors, Transform
from hut_jax.transforms.base import wide

Flat = Mapping[Path, Any]
"""Parameters, or their shapes, by path."""


@dataclass(frozen=True)
class Site:
    """One place that an adapter acts on.

    Attributes:
        path: of a dense layer, or of one parameter.
        transform: what is done there.
        shape: of the kernel or the parameter.
        factors: the shapes of what trains.
        layout: how a dense layer's kernel is read; None for a parameter.
        also: whether it is one of `also_train`'s.
        has_bias: whether a dense layer has one.
    """

    path: Path
    transform: Transform
    shape: tuple[int, ...]
    factors: dict[str, tuple[int, ...]]
    layout: Layout | None = None
    also: bool = False
    has_bias: bool = False

    @property
    def factor_axes(self) -> dict[str, tuple[str | None, ...]]:
        """Of a dense layer's factors, what each axis is, but for those of stacked layers: "d", "k", or None, a rank.

        An axis is found out by what it grows with, so that transformations need not say it.
        """
        assert self.layout is not None
        stack = self.layout.stacked
        d = math.prod(self.shape[stack : stack + self.layout.inputs])
        k = math.prod(self.shape[stack + self.layout.inputs :])
        has_bias = self.has_bias
        plain, wider, longer = (
            _shapes_of(self.transform, shape, has_bias) for shape in ((d, k), (2 * d, k), (d, 2 * k))
        )
        return {
            name: tuple(
                "d" if wider[name][i] != size else "k" if longer[name][i] != size else None
                for i, size in enumerate(plain[name])
            )
            for name in plain
        }

    @property
    def count(self) -> int:
        """Numbers that train here."""
        return sum(map(math.prod, self.factors.values()))

    def leaves(self, flat: Flat) -> list[Path]:
        """The parameters that merging replaces: this one, or the layer's kernel and, if it has one, bias."""
        if self.layout is None:
            return [self.path]
        return [path for path in ((*self.path, "kernel"), (*self.path, "bias")) if path in flat]

    def own(self, flat_factors: Mapping[Path, Array]) -> Factors:
        """This site's factors, out of all, in fp32 or wider: half of a deviation's digits go where 1 is added."""
        own = {name: jnp.asarray(flat_factors[*self.path, name]) for name in self.factors}
        return {name: leaf.astype(wide(leaf)) for name, leaf in own.items()}

    def init(self, key: jax.Array, flat: Flat) -> Factors:
        """The factors to begin with; `key` is drawn from once for each stacked layer."""
        if self.layout is None:
            return self.transform.init(key, flat[self.path], None)
        kernel, bias = self._matrices(flat)
        keys = jax.random.split(key, kernel.shape[:-2])
        return _over_layers(self.transform.init, self.layout.stacked)(keys, kernel, bias)

    def merge(self, flat: Flat, factors: Factors) -> dict[Path, Array]:
        """The replaced parameters by path."""
        if self.layout is None:
            return {self.path: self.transform.weight(flat[self.path], factors)}
        kernel, bias = _over_layers(self.transform.merge, self.layout.stacked)(*self._matrices(flat), factors)
        merged = {(*self.path, "kernel"): kernel.reshape(self.shape)}
        if bias is not None:
            merged[*self.path, "bias"] = bias.reshape(flat[*self.path, "bias"].shape)
        return merged

    def sets_after_layers(self, factors: Factors) -> Factors:
        """Stacked factor sets with the axis of sets behind those of stacked layers, over which `nn.scan` goes first."""
        stacked = 0 if self.layout is None else self.layout.stacked
        return {name: jnp.moveaxis(leaf, 0, stacked) for name, leaf in factors.items()}

    def _matrices(self, flat: Flat) -> tuple[Array, Array | None]:
        """The kernel as `[*stack, d, k]` and the bias, if there is one, as `[*stack, k]`."""
        assert self.layout is not None
        stack = self.shape[: self.layout.stacked]
        d = math.prod(self.shape[len(stack) : len(stack) + self.layout.inputs])
        bias = flat.get((*self.path, "bias"))
        kernel = flat[*self.path, "kernel"].reshape(*stack, d, -1)
        return kernel, None if bias is None else bias.reshape(*stack, -1)


def leaf_site(transform: Transform, path: Path, flat: Flat, *, also: bool = False) -> Site:
    """The site of one parameter."""
    shape = flat[path].shape
    return Site(path, transform, shape, _factor_shapes(transform, shape, False, path), also=also)


def dense_site(transform: Transform, path: Path, flat: Flat, layouts: Sequence[tuple[str, str]]) -> Site:
    """The site of the dense layer at this path.

    Raises:
        UserError: the kernel's axes are in doubt, or the transformation does not fit it.
    """
    transform = transform.at(show(path))
    kernel, bias = flat[*path, "kernel"], flat.get((*path, "bias"))
    shape = kernel.shape
    try:
        spelled = first_match(layouts, path)
        layout = Layout.parse(spelled, shape) if spelled else Layout.infer(shape, None if bias is None else bias.shape)
    except UserError as error:
        raise UserError(f"{show(path)}: {error}") from None
    stack = shape[: layout.stacked]
    d = math.prod(shape[layout.stacked : layout.stacked + layout.inputs])
    k = math.prod(shape[layout.stacked + layout.inputs :])
    if bias is not None and math.prod(bias.shape) != math.prod(stack) * k:
        raise UserError(
            f"{show(path)}: its bias {list(bias.shape)} does not fit the outputs of its kernel {list(shape)}: it is no "
            "dense layer y = x @ kernel + bias, or its layout= is another"
        )
    factors = _factor_shapes(transform, (d, k), bias is not None, path)
    stacked_factors = {name: (*stack, *dims) for name, dims in factors.items()}
    return Site(path, transform, shape, stacked_factors, layout, has_bias=bias is not None)


@functools.lru_cache(maxsize=4096)
def _shapes_of(transform: Transform, shape: tuple[int, ...], has_bias: bool) -> dict[str, tuple[int, ...]]:
    kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
    bias = jax.ShapeDtypeStruct(shape[-1:], jnp.float32) if has_bias else None
    factors = jax.eval_shape(transform.init, jax.random.key(0), kernel, bias)
    return {name: factor.shape for name, factor in factors.items()}


def _factor_shapes(
    transform: Transform, shape: tuple[int, ...], has_bias: bool, path: Path
) -> dict[str, tuple[int, ...]]:
    try:
        return _shapes_of(transform, shape, has_bias)
    except UserError as error:
        raise UserError(f"{show(path)}: {error}") from None


def _over_layers(function: Any, stacked: int) -> Any:
    for _ in range(stacked):
        function = jax.vmap(function)
    return function
