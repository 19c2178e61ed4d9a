"""The sites of an adapter: the shapes of each one's factors, how they are made, and how they are merged."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hut_jax.adapters.layout import Layout
from hut_jax.adapters.targets import first_match
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show
from hut_jax.transforms import Transform
from hut_jax.transforms.base import Factors, wide

Flat = Mapping[Path, Any]
"""Parameters, or their shapes, by path."""


@dataclass(frozen=True)
class Site:
    """A place that an adapter acts on: a dense layer or, for a transformation of whole leaves, one parameter.

    Attributes:
        path: of the dense layer or the parameter.
        transform: the transformation at this site.
        shape: of the kernel or the parameter.
        factors: the shapes of the factors.
        layout: how the dense layer's kernel is read; None for a parameter.
        also: whether the parameter is one of `also_train`'s.
        has_bias: whether the dense layer has a bias.
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
        """What each axis of a dense layer's factors counts: "d" for inputs, "k" for outputs, None for a rank.

        Axes of stacked layers are left out. A transformation need not state its axes. They are found by making the
        shapes of the factors again for twice as many inputs, and again for twice as many outputs.
        """
        assert self.layout is not None
        d, k = self.layout.d, self.layout.k
        plain, wider, longer = (
            _shapes_of(self.transform, shape, self.has_bias) for shape in ((d, k), (2 * d, k), (d, 2 * k))
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
        """The number of trainable parameters here."""
        return sum(map(math.prod, self.factors.values()))

    def leaves(self, flat: Flat) -> list[Path]:
        """The parameters that merging replaces: this one, or the dense layer's kernel and, if it has one, bias."""
        if self.layout is None:
            return [self.path]
        return [path for path in ((*self.path, "kernel"), (*self.path, "bias")) if path in flat]

    def own(self, flat_factors: Mapping[Path, Array]) -> Factors:
        """This site's factors, in fp32 or wider: in half precision `1 + a` would round most of `a` away."""
        own = {name: jnp.asarray(flat_factors[*self.path, name]) for name in self.factors}
        return {name: leaf.astype(wide(leaf)) for name, leaf in own.items()}

    def init(self, key: jax.Array, flat: Flat) -> Factors:
        """The factors at the start; `key` is split over stacked layers."""
        if self.layout is None:
            return self.transform.init(key, flat[self.path], None)
        kernel, bias = self._matrices(flat)
        keys = jax.random.split(key, self.layout.stack)
        return self._over_layers(self.transform.init)(keys, kernel, bias)

    def merge(self, flat: Flat, factors: Factors) -> dict[Path, Array]:
        """The parameters that are replaced, by path."""
        if self.layout is None:
            return {self.path: self.transform.weight(flat[self.path], factors)}
        kernel, bias = self._over_layers(self.transform.merge)(*self._matrices(flat), factors)
        merged = {(*self.path, "kernel"): kernel.reshape(self.shape)}
        if bias is not None:
            merged[*self.path, "bias"] = bias.reshape(flat[*self.path, "bias"].shape)
        return merged

    def layers_first(self, factors: Factors) -> Factors:
        """Move the first axis, on which factor sets are stacked, behind the axes of stacked layers.

        `nn.scan` iterates over the axes of stacked layers, so these must come first.
        """
        stacked = 0 if self.layout is None else len(self.layout.stack)
        return {name: jnp.moveaxis(leaf, 0, stacked) for name, leaf in factors.items()}

    def _matrices(self, flat: Flat) -> tuple[Array, Array | None]:
        """The kernel as `[*stack, d, k]` and the bias, if there is one, as `[*stack, k]`."""
        assert self.layout is not None
        stack, d, k = self.layout.stack, self.layout.d, self.layout.k
        kernel, bias = flat[*self.path, "kernel"], flat.get((*self.path, "bias"))
        return kernel.reshape(*stack, d, k), None if bias is None else bias.reshape(*stack, k)

    def _over_layers(self, function: Any) -> Any:
        assert self.layout is not None
        for _ in self.layout.stack:
            function = jax.vmap(function)
        return function


def leaf_site(transform: Transform, path: Path, flat: Flat, *, also: bool = False) -> Site:
    """The site of one parameter."""
    shape = flat[path].shape
    return Site(path, transform, shape, _factor_shapes(transform, shape, False, path), also=also)


def dense_site(transform: Transform, path: Path, flat: Flat, layouts: Sequence[tuple[str, str]]) -> Site:
    """The site of the dense layer at this path.

    Raises:
        UserError: the layout of the kernel is unknown or wrong, or the transformation does not fit it.
    """
    transform = transform.at(show(path))
    kernel, bias = flat[*path, "kernel"], flat.get((*path, "bias"))
    shape = kernel.shape
    try:
        spelled = first_match(layouts, path)
        layout = Layout.parse(spelled, shape) if spelled else Layout.infer(shape, None if bias is None else bias.shape)
    except UserError as error:
        raise UserError(f"{show(path)}: {error}") from None
    if bias is not None and math.prod(bias.shape) != math.prod(layout.stack) * layout.k:
        raise UserError(
            f"{show(path)}: its bias {list(bias.shape)} does not fit the outputs of its kernel {list(shape)}: it is "
            "not a dense layer y = x @ kernel + bias, or it needs another layout="
        )
    factors = _factor_shapes(transform, (layout.d, layout.k), bias is not None, path)
    stacked_factors = {name: (*layout.stack, *sizes) for name, sizes in factors.items()}
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
