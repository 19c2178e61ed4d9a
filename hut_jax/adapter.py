"""An adapter: a transformation and what it acts on. It computes; it knows no file and no optimiser."""

import functools
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from hut_jax.errors import UserError, nearest
from hut_jax.interceptor import COLLECTION, interceptor
from hut_jax.targets import (
    Layout,
    Patterns,
    Rules,
    as_patterns,
    as_rules,
    first_match,
    flatten,
    match,
    nearest_path,
    unflatten,
)
from hut_jax.transforms import Factors, Transform

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Site:
    """One place that an adapter acts on: a dense layer, or for whole-leaf transformations a parameter."""

    path: str
    shape: tuple[int, ...]
    factors: dict[str, tuple[int, ...]]
    layout: Layout | None = None

    @property
    def count(self) -> int:
        """Numbers that train here."""
        return sum(map(math.prod, self.factors.values()))


@dataclass(frozen=True)
class Count:
    """How many numbers train, of how many."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        """Trainable numbers as a percentage of the base's."""
        return 100 * self.trainable / self.total


@dataclass(frozen=True, init=False)
class Adapter:
    """A transformation applied to some of a model's parameters.

    Attributes:
        transform: what to do with each kernel, such as `HUT(rank=8)`.
        targets: regular expressions searched in the '/'-joined paths of the dense layers (of every parameter,
            for a transformation of whole leaves); "all-linear" is all of them; none: query and value, by the
            names of the model's family.
        exclude: patterns of paths to leave alone.
        ranks: rank by pattern where it is not the transformation's own, `{"mlp/": 4}`; the first match counts.
        layout: how to read the axes of kernels whose shapes leave doubt, by pattern: `{"^layers/": "lio"}`, a
            letter an axis, l stacked layers, i input, o output.
    """

    transform: Transform
    targets: tuple[str, ...]
    exclude: tuple[str, ...]
    ranks: tuple[tuple[str, int], ...]
    layout: tuple[tuple[str, str], ...]

    def __init__(
        self,
        transform: Transform,
        targets: Patterns = None,
        *,
        exclude: Patterns = None,
        ranks: Rules = (),
        layout: Rules = (),
    ):
        if ranks and not hasattr(transform, "rank"):
            raise UserError(f"ranks= was given, and {transform.name} has no rank")
        # Held as plain tuples, so that an adapter hashes and compares by value: a static argument of jit.
        object.__setattr__(self, "transform", transform)
        object.__setattr__(self, "targets", as_patterns(targets))
        object.__setattr__(self, "exclude", as_patterns(exclude))
        object.__setattr__(self, "ranks", as_rules(ranks))
        object.__setattr__(self, "layout", as_rules(layout))

    def sites(self, params: Params) -> list[Site]:
        """Where this adapter acts on these parameters (arrays, or shapes alone), in the order of the tree.

        Raises:
            UserError: a pattern matches nothing, or the transformation does not fit a kernel that one matches.
        """
        flat = flatten(params)
        if self.transform.whole_leaves:
            chosen = match(list(flat), self.targets or ("",), self.exclude)
            return [
                Site(path, flat[path].shape, _factor_shapes(self.transform, flat[path].shape, False, path))
                for path in chosen
            ]
        kernels = [path.removesuffix("/kernel") for path in flat if path.endswith("/kernel")]
        for pattern, _ in self.ranks + self.layout:
            if not any(re.search(pattern, path) for path in kernels):
                raise UserError(
                    f"pattern {pattern!r} in ranks= or layout= matches no path; {nearest_path(pattern, kernels)}"
                )
        return [self._site(path, flat) for path in match(kernels, self.targets, self.exclude)]

    def init(self, key: jax.Array, params: Params) -> PyTree[Array]:
        """Factors for these parameters: a tree that mirrors the modules' paths, and the identity to begin with.

        Raises:
            UserError: as `sites`.
        """
        flat = flatten(params)
        tree: dict[str, Factors] = {}
        for site in self.sites(params):
            # A key from the path: what else is targeted changes nothing here.
            site_key = jax.random.fold_in(key, zlib.crc32(site.path.encode()))
            if site.layout is None:
                tree[site.path] = self.transform.init(site_key, flat[site.path], None)
                continue
            kernel, bias = _matrices(site, flat)
            keys = jax.random.split(site_key, kernel.shape[:-2])
            init = _over_layers(self._transform_at(site.path).init, site.layout.stacked)
            tree[site.path] = init(keys, kernel, bias)
        return unflatten(tree)

    def apply(
        self,
        model: nn.Module,
        params: Params,
        factors: PyTree[Array],
        *args: Any,
        method: Any = None,
        **kwargs: Any,
    ) -> Any:
        """`model.apply({"params": params}, *args, **kwargs)`, run with these factors; for any Linen model.

        Raises:
            UserError: the factors are not those of this adapter for these parameters, or a target is owned by
                a module that cannot run with factors, or (when `method` is not given) was never called.
        """
        sites = self._checked(params, factors)
        if self.transform.whole_leaves:
            return model.apply({"params": self.merge(params, factors)}, *args, method=method, **kwargs)
        used: set[str] = set()
        inputs = {site.path: site.layout.inputs for site in sites if site.layout is not None}
        with nn.intercept_methods(interceptor(self.transform, inputs, used)):
            out = model.apply({"params": params, COLLECTION: factors}, *args, method=method, **kwargs)
        unused = [path for path in inputs if path not in used]
        if unused and method is None:
            raise UserError(
                f"{unused[0]} has factors and was never called as a layer ({len(unused)} such); "
                "merge them, adapter.merge(params, factors), and run the model plainly, or exclude the path"
            )
        return out

    def merge(self, params: Params, factors: PyTree[Array]) -> dict[str, Any]:
        """Parameters of a plain model that computes what `apply` does. Untouched leaves are passed on uncopied.

        Raises:
            UserError: the factors are not those of this adapter for these parameters.
        """
        flat, flat_factors = flatten(params), flatten(factors)
        merged = dict(flat)
        for site in self._checked(params, factors):
            site_factors = {name: flat_factors[f"{site.path}/{name}"] for name in site.factors}
            if site.layout is None:
                merged[site.path] = self.transform.weight(flat[site.path], site_factors)
                continue
            kernel, bias = _matrices(site, flat)
            merge = _over_layers(self.transform.merge, site.layout.stacked)
            kernel, bias = merge(kernel, bias, site_factors)
            merged[f"{site.path}/kernel"] = kernel.reshape(site.shape)
            if bias is not None:
                merged[f"{site.path}/bias"] = bias.reshape(flat[f"{site.path}/bias"].shape)
        return unflatten(merged)

    def count(self, params: Params) -> Count:
        """How many numbers train, and how many the base has."""
        total = sum(math.prod(leaf.shape) for leaf in flatten(params).values())
        return Count(sum(site.count for site in self.sites(params)), total)

    def report(self, params: Params) -> str:
        """What matched, a line a site: path, kernel shape, factor shapes, numbers; then the totals."""
        rows = [("path", "kernel", "factors", "numbers")]
        for site in self.sites(params):
            factors = " ".join(f"{name}{_shape(shape)}" for name, shape in site.factors.items())
            rows.append((site.path, _shape(site.shape), factors, f"{site.count:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
        count = self.count(params)
        lines.append(f"trainable {count.trainable:,} of {count.total:,} ({count.percent:.3f} %)")
        return "\n".join(lines)

    def _transform_at(self, path: str) -> Transform:
        rank = first_match(self.ranks, path)
        return self.transform if rank is None else replace(cast(Any, self.transform), rank=rank)

    def _site(self, path: str, flat: Mapping[str, Any]) -> Site:
        kernel, bias = flat[f"{path}/kernel"], flat.get(f"{path}/bias")
        shape, bias_shape = kernel.shape, None if bias is None else bias.shape
        try:
            spelled = first_match(self.layout, path)
            layout = Layout.parse(spelled, shape) if spelled else Layout.infer(shape, bias_shape)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        d = math.prod(shape[layout.stacked : layout.stacked + layout.inputs])
        k = math.prod(shape[layout.stacked + layout.inputs :])
        factors = _factor_shapes(self._transform_at(path), (d, k), bias is not None, path)
        stack = shape[: layout.stacked]
        return Site(path, shape, {name: (*stack, *dims) for name, dims in factors.items()}, layout)

    def _checked(self, params: Params, factors: PyTree[Array]) -> list[Site]:
        """The sites, once the factors are known to be these sites' own: no more, no fewer, of their shapes."""
        sites = self.sites(params)
        wanted = {f"{site.path}/{name}": shape for site in sites for name, shape in site.factors.items()}
        given = {path: leaf.shape for path, leaf in flatten(factors).items()}
        for path in sorted(given.keys() - wanted.keys()):
            raise UserError(
                f"factor {path} belongs to no target of this adapter in this model; {nearest(path, wanted)}"
            )
        for path, shape in wanted.items():
            if path not in given:
                raise UserError(f"factor {path} is missing; {nearest(path, given)}")
            if given[path] != shape:
                raise UserError(f"factor {path} has shape {list(given[path])}; its kernel wants {list(shape)}")
        return sites


@functools.lru_cache(maxsize=4096)
def _shapes_of(transform: Transform, shape: tuple[int, ...], has_bias: bool) -> dict[str, tuple[int, ...]]:
    kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
    bias = jax.ShapeDtypeStruct(shape[-1:], jnp.float32) if has_bias else None
    factors = jax.eval_shape(transform.init, jax.random.key(0), kernel, bias)
    return {name: factor.shape for name, factor in factors.items()}


def _factor_shapes(
    transform: Transform, shape: tuple[int, ...], has_bias: bool, path: str
) -> dict[str, tuple[int, ...]]:
    try:
        return _shapes_of(transform, shape, has_bias)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _matrices(site: Site, flat: Mapping[str, Any]) -> tuple[Array, Array | None]:
    """A site's kernel as `[*stack, d, k]` and its bias, if it has one, as `[*stack, k]`."""
    assert site.layout is not None
    stack = site.shape[: site.layout.stacked]
    d = math.prod(site.shape[len(stack) : len(stack) + site.layout.inputs])
    bias = flat.get(f"{site.path}/bias")
    kernel = flat[f"{site.path}/kernel"].reshape(*stack, d, -1)
    return kernel, None if bias is None else bias.reshape(*stack, -1)


def _over_layers(function: Any, stacked: int) -> Any:
    for _ in range(stacked):
        function = jax.vmap(function)
    return function


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
