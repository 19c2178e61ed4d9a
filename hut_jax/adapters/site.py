"""The sites of an adapter: the shapes of each one's factors, how they are made, and how they are merged."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hut_jax.adapters.layout import Layout, UnknownLayout, read_layout
from hut_jax.adapters.targets import (
    ALL_LINEAR,
    Candidate,
    first_match,
    match,
    match_default,
    match_modules,
    match_named,
    matches,
    nearest_path,
    some,
)
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show
from hut_jax.transforms import Full, Transform
from hut_jax.transforms.base import Factors, wide

Flat = Mapping[Path, Any]
"""Parameters, or their shapes, by path."""

_BIASES = {"kernel": ("bias",), "w": ("b", "bias"), "weight": ("bias",)}
"""The names that a kernel's bias may have, by the kernel's own."""

_LINEAR = re.compile(r"(^|_)(kernel|w|weights?|einsum|linear)$")
"""Names of the parameters that "all-linear" takes, if they are matrices."""

_NO_KERNELS = ("bias", "scale", "mean", "var")
"""Names of parameters that are no kernels, whatever their axes."""


@dataclass(frozen=True)
class Site:
    """A place that an adapter acts on: a kernel or, for a transformation of whole leaves, any parameter.

    Attributes:
        path: the place of its factors in their tree: the path of the module for a parameter called `kernel`, else the
            parameter's own.
        transform: the transformation at this site.
        shape: of the kernel or the parameter.
        factors: the shapes of the factors.
        layout: how the kernel is read; None for a transformation of whole leaves.
        also: whether the parameter is one of `also_train`'s.
        kernel: the path of the kernel or the parameter.
        bias: the path of the bias of the kernel's outputs, if there is one.
    """

    path: Path
    transform: Transform
    shape: tuple[int, ...]
    factors: dict[str, tuple[int, ...]]
    layout: Layout | None = None
    also: bool = False
    kernel: Path = ()
    bias: Path | None = None

    @property
    def has_bias(self) -> bool:
        """Whether the kernel's outputs have a bias."""
        return self.bias is not None

    @property
    def factor_axes(self) -> dict[str, tuple[str | None, ...]]:
        """What each axis of a kernel's factors counts: "d" for inputs, "k" for outputs, None for a rank.

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

    @property
    def leaves(self) -> list[Path]:
        """The parameters that merging replaces: this one, or the kernel and, if there is one, the bias."""
        return [self.kernel] if self.bias is None else [self.kernel, self.bias]

    def own(self, flat_factors: Mapping[Path, Array]) -> Factors:
        """This site's factors, in fp32 or wider: in half precision `1 + a` would round most of `a` away."""
        own = {name: jnp.asarray(flat_factors[*self.path, name]) for name in self.factors}
        return {name: leaf.astype(wide(leaf)) for name, leaf in own.items()}

    def init(self, key: jax.Array, flat: Flat) -> Factors:
        """The factors at the start; `key` is split over stacked layers."""
        flat = {path: _of_shape(flat[path]) for path in self.leaves}
        if self.layout is None:
            return self.transform.init(key, flat[self.kernel], None)
        kernel, bias = self._matrices(flat)
        keys = jax.random.split(key, self.layout.stack)
        return self._over_layers(self.transform.init)(keys, kernel, bias)

    def merge(self, flat: Flat, factors: Factors) -> dict[Path, Array]:
        """The parameters that are replaced, by path."""
        if self.layout is None:
            return {self.kernel: self.transform.weight(flat[self.kernel], factors)}
        kernel, bias = self._over_layers(self.transform.merge)(*self._matrices(flat), factors)
        merged = {self.kernel: self.layout.kernel(kernel)}
        if self.bias is not None:
            merged[self.bias] = self.layout.bias(bias, flat[self.bias].shape)
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
        bias = None if self.bias is None else self.layout.vector(jnp.asarray(flat[self.bias]))
        return self.layout.matrix(jnp.asarray(flat[self.kernel])), bias

    def _over_layers(self, function: Any) -> Any:
        assert self.layout is not None
        for _ in self.layout.stack:
            function = jax.vmap(function)
        return function


@dataclass(frozen=True)
class Choice:
    """What an adapter says about its sites, in fields like its own.

    Attributes:
        told: the layouts that the types of the model's modules tell, by the kernels' paths.
    """

    transform: Transform
    targets: tuple[str, ...]
    exclude: tuple[str, ...]
    ranks: tuple[tuple[str, Any], ...]
    layout: tuple[tuple[str, Any], ...]
    also_train: tuple[str, ...]
    told: tuple[tuple[Path, str], ...]

    def find(self, flat: Flat) -> list[Site]:
        """The sites in these parameters, in their order, and then those of `also_train`.

        Raises:
            UserError: a pattern matches nothing, or the transformation does not fit a kernel that one matches.
        """
        if all(map(_is_array, flat.values())):
            described = tuple((path, tuple(leaf.shape), jnp.dtype(leaf.dtype)) for path, leaf in flat.items())
            try:
                return list(_found(self, described))
            except TypeError:  # a transformation of the user's that has no hash
                pass
        return self._find(flat)

    def left_out(self, flat: Flat) -> list[Path]:
        """The kernels that "all-linear" leaves out, since their axes cannot be told."""
        found = {site.kernel for site in self.find(flat)}
        return [one.leaf for one in self._matched(flat)[0] if one.leaf not in found]

    def _find(self, flat: Flat) -> list[Site]:
        matched, named, also = self._matched(flat)
        for name, rules in (("ranks", self.ranks), ("layout", self.layout)):
            for pattern, _ in rules:
                if not any(matches(pattern, one.path, one.leaf) for one in matched):
                    near = nearest_path(pattern, [one.path for one in matched])
                    raise UserError(f"pattern {pattern!r} in {name}= matches no target; {near}")
        sites = self._sites(matched, flat, named)
        for site in sites:
            if any(leaf in also and not (also[leaf] and site.layout) for leaf in site.leaves):
                raise UserError(
                    f"{show(site.path)} is both a target and in also_train={list(self.also_train)}; "
                    "exclude= it from the targets, or leave it out of also_train="
                )
        return sites + [leaf_site(Full(), path, flat, also=True) for path in also]

    def _matched(self, flat: Flat) -> tuple[list[Candidate], set[Candidate], dict[Path, bool]]:
        """What the patterns choose, what of it they name, and what trains in full beside it (named alone, or not)."""
        candidates = self._candidates(flat)
        if not candidates:
            what = "" if self.transform.whole_leaves else ", with the kernels of dense layers"
            raise UserError(
                f"{self.transform.name} has nothing to act on: params= are the base's parameters{what}, and these are "
                f"{some(list(flat)) or 'none'}"
            )
        also = match_modules(list(flat), self.also_train)
        if not self.targets or ALL_LINEAR in self.targets:
            candidates = [one for one in candidates if one.leaf not in also]
        targets = self.targets or match_default(candidates, self.transform.default_targets)
        return match(candidates, targets, self.exclude), match_named(candidates, targets), also

    def _candidates(self, flat: Flat) -> list[Candidate]:
        """The kernels, or the parameters that a transformation of whole leaves takes."""
        if self.transform.whole_leaves:
            siblings: dict[Path, set[str]] = {}
            for *above, leaf in flat:
                siblings.setdefault(tuple(above), set()).add(leaf)
            return [Candidate(path, path) for path in flat if self.transform.takes(path[-1], siblings[path[:-1]])]
        found = []
        rank = getattr(self.transform, "rank", 1)
        factors = set(_shapes_of(self.transform, (rank, rank), True))
        for path, value in flat.items():
            name, module = path[-1], path[:-1]
            if name == "kernel" and len(getattr(value, "shape", (0, 0))) > 1:
                found.append(Candidate(module, path))
            elif _is_float(value) and len(value.shape) > 1 and name not in _NO_KERNELS:
                if name in factors and {other[-1] for other in flat if other[:-1] == module} == factors:
                    continue  # factors, given for parameters
                found.append(Candidate(path, path, bool(_LINEAR.search(name)), (*module, "kernel") not in flat))
        return found

    def _sites(self, matched: Sequence[Candidate], flat: Flat, named: set[Candidate]) -> list[Site]:
        if self.transform.whole_leaves:
            return [leaf_site(self.transform, one.path, flat) for one in matched]
        sites, misfits, unknown = [], [], []
        for one in matched:
            path, leaf = one.path, one.leaf
            rank = first_match(self.ranks, path, leaf)
            transform = self.transform if rank is None else replace(cast(Any, self.transform), rank=rank)
            try:
                sites.append(kernel_site(transform, path, leaf, flat, self.layout, dict(self.told).get(leaf)))
            except DoesNotFit as error:
                misfits.append((show(path) or show(leaf), error))
            except UnknownLayout as error:  # "all-linear" takes what will run; what is named must
                if one in named:
                    raise
                unknown.append(error)
        if unknown and not sites and not misfits:
            raise unknown[0]
        if misfits:
            where, misfit = misfits[0]
            pattern = f"^{re.escape(where)}$"
            ways = [f"ranks={{{pattern!r}: ...}} gives it its own"] * hasattr(self.transform, "rank")
            ways.append(f"exclude={pattern!r} leaves it out")
            many = f" ({len(misfits)} of {len(matched)} kernels)" if len(matched) > 1 else ""
            raise UserError(f"{misfit}{many}; {', '.join(ways)}")
        places = {site.path: site for site in sites}
        for site in sites:
            for depth, name in enumerate(site.path):
                above = site.path[:depth]
                if above in places and name in places[above].factors:
                    raise UserError(
                        f"the factors of {show(site.path)} would lie where those of {show(above) or 'the model'} are; "
                        "adapt them with two adapters, one after the other is merged"
                    )
        return sites


@functools.lru_cache(maxsize=64)
def _found(choice: Choice, described: tuple[tuple[Path, tuple[int, ...], Any], ...]) -> tuple[Site, ...]:
    return tuple(choice._find({path: jax.ShapeDtypeStruct(shape, dtype) for path, shape, dtype in described}))


def leaf_site(transform: Transform, path: Path, flat: Flat, *, also: bool = False) -> Site:
    """The site of one parameter.

    Raises:
        UserError: the parameter is no array of floats.
    """
    shape = _float_shape(path, flat[path])
    return Site(path, transform, shape, _factor_shapes(transform, shape, False, path), also=also, kernel=path)


def kernel_site(
    transform: Transform,
    path: Path,
    leaf: Path,
    flat: Flat,
    layouts: Sequence[tuple[str, str]] = (),
    told: str | None = None,
) -> Site:
    """The site of a kernel.

    Args:
        transform: the adapter's.
        path: the place of the factors.
        leaf: the kernel's path.
        flat: the parameters, or their shapes.
        layouts: pairs of a pattern and a layout.
        told: the layout that the type of its module tells, if it does.

    Raises:
        UserError: the kernel is no array of floats, its layout is unknown or wrong, or the transformation does not fit.
    """
    transform, where = transform.at(show(path)), show(path) or show(leaf)
    shape = _float_shape(leaf, flat[leaf])
    beside = () if leaf[-1] != "kernel" and (*leaf[:-1], "kernel") in flat else _BIASES.get(leaf[-1], ())
    names = [(*leaf[:-1], name) for name in beside]
    bias = next((name for name in names if name in flat), None)
    spelled = first_match(layouts, path, leaf) or told
    try:
        layout = Layout.parse(spelled, shape) if spelled else read_layout(leaf, _Shapes(flat), bias)
    except UserError as error:
        raise (UserError if spelled else UnknownLayout)(f"{where}: {error}") from None
    if bias is not None and not layout.fits(flat[bias].shape):
        if not spelled:
            raise UnknownLayout(
                f"{where}: its bias {list(flat[bias].shape)} does not fit the outputs of its kernel {list(shape)}: it "
                "is not a dense layer y = x @ kernel + bias, or it needs a layout="
            )
        bias = None  # another thing of this name
    if bias is None and getattr(transform, "shift", False):
        transform = replace(cast(Any, transform), shift=False)
    factors = _factor_shapes(transform, (layout.d, layout.k), bias is not None, path or leaf)
    stacked_factors = {name: (*layout.stack, *sizes) for name, sizes in factors.items()}
    return Site(path, transform, shape, stacked_factors, layout, kernel=leaf, bias=bias)


class DoesNotFit(UserError):
    """The transformation does not fit a kernel."""


class _Shapes(Mapping[Path, tuple[int, ...]]):
    """The shapes of all parameters."""

    def __init__(self, flat: Flat):
        self._flat = flat

    def __getitem__(self, path: Path) -> tuple[int, ...]:
        return tuple(getattr(self._flat[path], "shape", ()))

    def __iter__(self):
        return iter(self._flat)

    def __len__(self) -> int:
        return len(self._flat)


def _float_shape(path: Path, leaf: Any) -> tuple[int, ...]:
    """The shape of a parameter.

    Raises:
        UserError: it is no array of floats.
    """
    if not _is_float(leaf):
        what = f"{leaf.dtype}{list(leaf.shape)}" if _is_array(leaf) else f"of type {type(leaf).__name__}"
        out = f"leave it out with exclude={f'^{re.escape(show(path))}$'!r}"
        if _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise UserError(f"{show(path)} is {what}, and complex numbers cannot be adapted: {out}")
        raise UserError(
            f"{show(path)} is {what}, and what is adapted must be an array of floats: put the dequantised array there, "
            f"or {out}"
        )
    return tuple(leaf.shape)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jax.tree_util.all_leaves([leaf])


def _is_float(leaf: Any) -> bool:
    """Whether this is an array of floats that take part in arithmetic, as those of 8 bits do not."""
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.dtype(leaf.dtype).itemsize > 1


def _of_shape(leaf: Any) -> Any:
    """The leaf, or for a shape alone zeros."""
    return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf


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
        raise DoesNotFit(f"{show(path)}: {error}") from None
