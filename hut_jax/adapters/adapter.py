"""An adapter: a transformation and what it acts on. It computes; it knows no file and no optimiser."""

import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from hut_jax.adapters.interceptor import COLLECTION, Place, dropout_acts, interceptor
from hut_jax.adapters.site import Site, dense_site, leaf_site
from hut_jax.adapters.targets import (
    ALL_LINEAR,
    Patterns,
    Rules,
    as_patterns,
    as_rules,
    first_match,
    match,
    match_default,
    match_modules,
    nearest_path,
)
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.trees import Path, flatten, show, unflatten
from hut_jax.transforms import Full, Transform
from hut_jax.transforms.base import check_rank

Params = Mapping[str, Any]


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
            for a transformation of whole leaves); "all-linear" is all of them; none: the transformation's own
            default, by the names of the model's family.
        exclude: patterns of paths to leave alone.
        ranks: rank by pattern where it is not the transformation's own, `{"mlp/": 4}`; the first match counts.
        layout: how to read the axes of kernels whose shapes leave doubt, by pattern: `{"^layers/": "lio"}`, a
            letter an axis, l stacked layers, i input, o output.
        also_train: patterns of modules that train in full beside the factors, such as a new head; "all-linear" and
            default targets leave them to it. An embedding must be named in full: a head tied to it trains with it.
    """

    transform: Transform
    targets: tuple[str, ...]
    exclude: tuple[str, ...]
    ranks: tuple[tuple[str, int], ...]
    layout: tuple[tuple[str, str], ...]
    also_train: tuple[str, ...]

    def __init__(
        self,
        transform: Transform,
        targets: Patterns = None,
        *,
        exclude: Patterns = None,
        ranks: Rules = (),
        layout: Rules = (),
        also_train: Patterns = None,
    ):
        if ranks and not hasattr(transform, "rank"):
            raise UserError(f"ranks= was given, and {transform.name} has no rank")
        for pattern, rank in as_rules(ranks):
            check_rank(f"ranks= at {pattern!r}", rank)
        # Held as plain tuples, so that an adapter hashes and compares by value: a static argument of jit.
        object.__setattr__(self, "transform", transform)
        object.__setattr__(self, "targets", as_patterns(targets))
        object.__setattr__(self, "exclude", as_patterns(exclude))
        object.__setattr__(self, "ranks", as_rules(ranks))
        object.__setattr__(self, "layout", as_rules(layout))
        object.__setattr__(self, "also_train", as_patterns(also_train))

    def sites(self, params: Params) -> list[Site]:
        """Where this adapter acts on these parameters (arrays, or shapes alone), in the order of the tree.

        Raises:
            UserError: a pattern matches nothing, or the transformation does not fit a kernel that one matches.
        """
        flat = flatten(params)
        also = dict.fromkeys(match_modules(list(flat), self.also_train))
        make = self._leaf if self.transform.whole_leaves else self._dense
        paths = self._candidates(flat)
        if not self.targets or ALL_LINEAR in self.targets:
            paths = [path for path in paths if path not in also and (*path, "kernel") not in also]
        targets = self.targets or match_default(paths, self.transform.default_targets)
        matched = match(paths, targets, self.exclude)
        for name, rules in (("ranks", self.ranks), ("layout", self.layout)):
            for pattern, _ in rules:
                if not any(re.search(pattern, show(path)) for path in matched):
                    raise UserError(
                        f"pattern {pattern!r} in {name}= matches no target; {nearest_path(pattern, matched)}"
                    )
        sites = [make(path, flat) for path in matched]
        for site in sites:
            if also.keys() & site.leaves(flat):
                raise UserError(
                    f"{show(site.path)} is among the targets and trains in full by also_train={list(self.also_train)}; "
                    "exclude= it from the targets, or leave it out of also_train="
                )
        return sites + [leaf_site(Full(), path, flat, also=True) for path in also]

    def init(self, key: jax.Array, params: Params) -> PyTree[Array]:
        """Factors for these parameters: a tree that mirrors the modules' paths, and the identity to begin with.

        Raises:
            UserError: as `sites`.
        """
        flat = flatten(params)
        factors = {}
        for site in self.sites(params):
            # A key from the path: what else is targeted changes nothing here.
            own = site.init(jax.random.fold_in(key, zlib.crc32(show(site.path).encode())), flat)
            factors.update({(*site.path, name): leaf for name, leaf in own.items()})
        return unflatten(factors)

    def apply(
        self,
        model: nn.Module,
        params: Params,
        factors: PyTree[Array],
        *args: Any,
        method: Any = None,
        adapter_ids: Int[Array, " batch"] | None = None,
        collections: Mapping[str, Any] | None = None,
        shards: int = 1,
        **kwargs: Any,
    ) -> Any:
        """`model.apply({"params": params}, *args, **kwargs)`, run with these factors; for any Linen model.

        A model with `nn.jit` inside keeps what it traced before, and cannot tell one adapter from another: merge there.

        Dropout of the transformation's own (LoRA's) draws from the rng "dropout" and obeys the model's argument
        `deterministic` (or `train`); where the model has neither, it acts if such an rng is given.

        Args:
            model: the model.
            params: its parameters.
            factors: from `init`, trained; with `adapter_ids` several such trees stacked leaf by leaf on a new
                first axis, as `Bank.stacked` has them.
            *args: the model's own.
            method: as in `model.apply`.
            adapter_ids: for each row of the batch, which of the stacked trees is its own. The batch must be the
                first axis of what every adapted layer sees. Under `jit` an id that there is no tree for gives NaN.
            collections: the model's other variables, such as `{"batch_stats": ...}`.
            shards: into how many parts devices share out the batch, the first axis of what every adapted layer sees.
                The result is the same; what the devices send one another in training is less.
            **kwargs: the model's own.

        Raises:
            UserError: the factors are not those of this adapter for these parameters, or a target is owned by
                a module that cannot run with factors, or (when `method` is not given) was never called.
        """
        sites = self.check(params, factors, stacked=adapter_ids is not None)
        leaves = [site for site in sites if site.layout is None]
        places = {site.path: Place(site.transform, site.layout.inputs) for site in sites if site.layout is not None}
        if leaves and adapter_ids is not None:
            raise UserError(f"{show(leaves[0].path)} trains in full, and cannot differ from row to row of a batch")
        if leaves:
            params = _merged(leaves, params, factors)
        variables = {**(collections or {}), "params": params}
        if not places:
            return model.apply(variables, *args, method=method, **kwargs)
        if adapter_ids is not None:
            flat = flatten(factors)
            adapter_ids = _checked_ids(adapter_ids, len(next(iter(flat.values()))))
            if kwargs.get("logits_at") is not None:
                raise UserError("logits_at takes positions out of their rows, so with adapter_ids call without it")
            factors = unflatten(
                {
                    (*site.path, name): leaf
                    for site in sites
                    for name, leaf in site.sets_after_layers(site.own(flat)).items()
                }
            )
        used: set[Path] = set()
        drop = any(place.transform.random for place in places.values()) and dropout_acts(model, method, args, kwargs)
        with nn.intercept_methods(interceptor(places, used, drop=drop, ids=adapter_ids, shards=shards)):
            out = model.apply({**variables, COLLECTION: factors}, *args, method=method, **kwargs)
        unused = [path for path in places if path not in used]
        if unused and method is None:
            raise UserError(
                f"{show(unused[0])} has factors and was never called as a layer ({len(unused)} such); "
                "merge them, adapter.merge(params, factors), and run the model plainly, or exclude the path"
            )
        return out

    def merge(self, params: Params, factors: PyTree[Array]) -> dict[str, Any]:
        """Parameters of a plain model that computes what `apply` does. Untouched leaves are passed on uncopied.

        Raises:
            UserError: the factors are not those of this adapter for these parameters, or (outside of `jit`, where
                values are known) a merged parameter is not finite.
        """
        sites = self.check(params, factors)
        merged = _merged(sites, params, factors)
        self.check_finite(merged)
        return merged

    def check_finite(self, merged: Params) -> None:
        """Make sure that every number which `merge` wrote is finite; under `jit` values are not known, nor checked.

        Raises:
            UserError: one is not; the message names its parameter.
        """
        flat = flatten(merged)
        for path in self.leaves(merged):
            finite = jnp.isfinite(flat[path]).all()
            if not isinstance(finite, jax.core.Tracer) and not bool(finite):
                raise UserError(
                    f"merging gives {show(path)} numbers that are not finite; look at the factors, or the dtype"
                )

    def leaves(self, params: Params) -> list[Path]:
        """The paths of the parameters that `merge` replaces."""
        flat = flatten(params)
        return [path for site in self.sites(params) for path in site.leaves(flat)]

    def kept(self, params: Params) -> dict[str, Any]:
        """The parameters that `merge` replaces: what `unmerge` needs where the base is not held otherwise."""
        flat = flatten(params)
        return unflatten({path: flat[path] for path in self.leaves(params)})

    def unmerge(self, merged: Params, base: Params) -> dict[str, Any]:
        """The base again, to the bit: W0 is put back, and never computed by a division.

        Args:
            merged: from `merge`.
            base: what `kept` gave before, or the whole base.

        Raises:
            UserError: a parameter that `merge` replaced is missing in `base`, or has another shape or dtype there.
        """
        flat, old = flatten(merged), flatten(base)
        for path in self.leaves(merged):
            if path not in old:
                raise UserError(f"the base to put back has no {show(path)}; {nearest(show(path), map(show, old))}")
            if (old[path].shape, old[path].dtype) != (flat[path].shape, flat[path].dtype):
                raise UserError(
                    f"{show(path)} is {old[path].dtype}{list(old[path].shape)} in the base to put back and "
                    f"{flat[path].dtype}{list(flat[path].shape)} in what was merged: they do not belong together"
                )
            flat[path] = old[path]
        return unflatten(flat)

    def check(self, params: Params, factors: PyTree[Array], *, stacked: bool = False) -> list[Site]:
        """The sites, once the factors are known to be these sites' own: no more, no fewer, of their shapes.

        Raises:
            UserError: they are not.
        """
        sites = self.sites(params)
        wanted = {(*site.path, name): shape for site in sites for name, shape in site.factors.items()}
        flat = flatten(factors)
        given = {path: jnp.shape(leaf) for path, leaf in flat.items()}
        for path, leaf in flat.items():
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise UserError(f"factor {show(path)} is {jnp.result_type(leaf)}, and factors are floats")
        for path in sorted(given.keys() - wanted.keys()):
            raise UserError(
                f"factor {show(path)} belongs to no target of this adapter in this model; "
                f"{nearest(show(path), map(show, wanted))}"
            )
        adapters = None
        for path, shape in wanted.items():
            if path not in given:
                raise UserError(f"factor {show(path)} is missing; {nearest(show(path), map(show, given))}")
            if stacked:
                adapters = given[path][:1] if adapters is None else adapters
                shape = (*adapters, *shape)
            if given[path] != shape:
                of = "; with adapter_ids the factor sets are stacked on a new first axis" if stacked else ""
                raise UserError(
                    f"factor {show(path)} has shape {list(given[path])}; its kernel wants {list(shape)}{of}"
                )
        return sites

    def count(self, params: Params) -> Count:
        """How many numbers train, and how many the base has."""
        total = sum(math.prod(leaf.shape) for leaf in flatten(params).values())
        return Count(sum(site.count for site in self.sites(params)), total)

    def report(self, params: Params) -> str:
        """What matched, a line a site: path, kernel shape, factor shapes, numbers; then the totals."""
        rows = [("path", "kernel", "factors", "numbers")]
        for site in self.sites(params):
            factors = " ".join(f"{name}{_shape(shape)}" for name, shape in site.factors.items())
            rows.append((show(site.path), _shape(site.shape), factors, f"{site.count:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
        count = self.count(params)
        lines.append(f"trainable {count.trainable:,} of {count.total:,} ({count.percent:.3f} %)")
        return "\n".join(lines)

    def _candidates(self, flat: Mapping[Path, Any]) -> list[Path]:
        """What targets are searched in: dense layers, or the parameters that the transformation takes."""
        if self.transform.whole_leaves:
            siblings: dict[Path, set[str]] = {}
            for *module, leaf in flat:
                siblings.setdefault(tuple(module), set()).add(leaf)
            return [path for path in flat if self.transform.takes(path[-1], siblings[path[:-1]])]
        return [path[:-1] for path in flat if len(path) > 1 and path[-1] == "kernel"]

    def _leaf(self, path: Path, flat: Mapping[Path, Any]) -> Site:
        return leaf_site(self.transform, path, flat)

    def _dense(self, path: Path, flat: Mapping[Path, Any]) -> Site:
        rank = first_match(self.ranks, path)
        transform = self.transform if rank is None else replace(cast(Any, self.transform), rank=rank)
        return dense_site(transform, path, flat, self.layout)


def _merged(sites: Iterable[Site], params: Params, factors: PyTree[Array]) -> dict[str, Any]:
    """The parameters with these sites merged."""
    flat, flat_factors = flatten(params), flatten(factors)
    merged = dict(flat)
    for site in sites:
        merged.update(site.merge(flat, site.own(flat_factors)))
    return unflatten(merged)


def _checked_ids(ids: Any, sets: int) -> Int[Array, " batch"]:
    """The ids of rows, once they are known to be of sets that there are; under `jit`, to be whole numbers."""
    known = None if isinstance(ids, jax.core.Tracer) else np.asarray(ids)  # JAX would trace it under `jit`
    ids = jnp.asarray(ids)
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise UserError(
            f"adapter_ids are {ids.dtype}{list(ids.shape)}; a whole number for each row of the batch is wanted"
        )
    if known is not None and len(known) and (known.min() < 0 or known.max() >= sets):
        raise UserError(f"adapter_ids go from {known.min()} to {known.max()}, and there are {sets} sets of factors")
    return ids


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
