"""An adapter: a transformation and the sites it acts on. Files are handled in another module."""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from hut_jax.adapters.interceptor import COLLECTION, dropout_acts, interceptor
from hut_jax.adapters.layout import check_letters
from hut_jax.adapters.optimizer import multipliers_of, scaled_optimizer
from hut_jax.adapters.report import Count, table
from hut_jax.adapters.site import Site, dense_site, leaf_site
from hut_jax.adapters.targets import (
    ALL_LINEAR,
    PatternsField,
    RulesField,
    as_patterns,
    as_rules,
    first_match,
    match,
    match_default,
    match_modules,
    nearest_path,
    some,
)
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.trees import Path, flatten, show, unflatten
from hut_jax.transforms import Full, Transform, make_transform
from hut_jax.transforms.base import check_rank

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Adapter:
    """A transformation applied to some of a model's parameters.

    Attributes:
        transform: the transformation of each kernel, such as `HUT(rank=8)`.
        targets: patterns (regular expressions) that are searched in the '/'-joined paths of the dense layers or, for a
            transformation of whole leaves, of all parameters. "all-linear" matches every path. Without patterns the
            transformation's default targets apply.
        exclude: patterns of paths to leave alone.
        ranks: ranks by pattern, such as `{"mlp/": 4}`, for sites whose rank is not the transformation's. The first
            match counts.
        layout: layouts by pattern, such as `{"^layers/": "lio"}`, for kernels whose shape does not tell their axes. A
            layout has one letter for each axis: l for stacked layers, i for inputs, o for outputs.
        also_train: patterns of modules that train in full beside the factors, such as a new head. "all-linear" and the
            default targets leave these modules out. An embedding must be named in full, since a head tied to it trains
            too.
    """

    transform: Transform
    targets: PatternsField = PatternsField(as_patterns, None)
    _: KW_ONLY
    exclude: PatternsField = PatternsField(as_patterns, None)
    ranks: RulesField = RulesField(as_rules, ())
    layout: RulesField = RulesField(as_rules, ())
    also_train: PatternsField = PatternsField(as_patterns, None)

    def __post_init__(self):
        if self.ranks and not hasattr(self.transform, "rank"):
            raise UserError(f"ranks= was given, but {self.transform.name} has no rank")
        for pattern, rank in self.ranks:
            check_rank(f"ranks= at {pattern!r}", rank)
        for pattern, text in self.layout:
            try:
                check_letters(text)
            except UserError as error:
                raise UserError(f"layout= at {pattern!r}: {error}") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Adapter":
        """The inverse of `to_dict`. Lists may stand for tuples, as in JSON. A missing field takes its default.

        Other keys are ignored.

        Raises:
            UserError: no transformation is named, or a value is wrong.
        """
        transform = values.get("transform")
        if not isinstance(transform, Mapping) or not isinstance(transform.get("name"), str):
            raise UserError("it describes no adapter of this library: it names no transformation")
        own = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        return cls(**own | {"transform": make_transform(**transform)})

    def to_dict(self) -> dict[str, Any]:
        """The adapter's fields as JSON values. The transformation is given by its name and settings."""
        transform = {"name": self.transform.name, **asdict(self.transform)}
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"transform": transform}

    def sites(self, params: Params) -> list[Site]:
        """The sites of this adapter in these parameters (arrays or shapes), in the order of the tree.

        Raises:
            UserError: a pattern matches nothing, or the transformation does not fit a kernel that one matches.
        """
        flat = flatten(params)
        paths = self._candidates(flat)
        if not paths:
            raise UserError(
                f"{self.transform.name} has nothing to act on: params= are the base's parameters, with the kernels of "
                f"dense layers, and these are {some(list(flat)) or 'none'}"
            )
        also = dict.fromkeys(match_modules(list(flat), self.also_train))
        make = self._leaf if self.transform.whole_leaves else self._dense
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
                    f"{show(site.path)} is both a target and in also_train={list(self.also_train)}; "
                    "exclude= it from the targets, or leave it out of also_train="
                )
        return sites + [leaf_site(Full(), path, flat, also=True) for path in also]

    def init(self, key: jax.Array, params: Params) -> PyTree[Array]:
        """Factors with which the model still equals the base, in a tree that mirrors the modules' paths.

        Raises:
            UserError: as `sites`.
        """
        flat = flatten(params)
        factors = {}
        for site in self.sites(params):
            # The key depends on the site's path, so that other targets do not change these factors.
            factors[site.path] = site.init(jax.random.fold_in(key, zlib.crc32(show(site.path).encode())), flat)
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
        """`model.apply({"params": params}, *args, **kwargs)` with these factors, for any Linen model.

        Do not use it on a model with `nn.jit` inside, which reuses one adapter's trace for another. Merge instead.

        The transformation's own dropout (LoRA's) draws from the rng "dropout". It obeys the model's argument
        `deterministic`, `train` or `training`. If the model has none of them, dropout acts if that rng is given.

        Args:
            model: the model.
            params: its parameters.
            factors: from `init`, trained; with `adapter_ids`, several such trees stacked leaf by leaf on a new
                first axis, as by `Bank.stacked`.
            *args: the model's own.
            method: as in `model.apply`.
            adapter_ids: the index of each row's tree among the stacked ones. The batch must be the first axis of
                the input of every adapted layer. Under `jit` an index out of range gives NaN.
            collections: the model's other variables, such as `{"batch_stats": ...}`.
            shards: the number of parts into which devices split the batch, the first axis of the input of every
                adapted layer. The result does not depend on it, but the right number saves communication in training.
            **kwargs: the model's own.

        Raises:
            UserError: the factors are not those of this adapter for these parameters; the module at a site cannot
                run with factors or (unless `method` is given) was never called.
        """
        sites = self.check(params, factors, stacked=adapter_ids is not None)
        leaves = [site for site in sites if site.layout is None]
        dense = {site.path: site for site in sites if site.layout is not None}
        if leaves and adapter_ids is not None:
            raise UserError(f"{show(leaves[0].path)} trains in full, and cannot differ from row to row of a batch")
        if leaves:
            params = _merged(leaves, params, factors)
        variables = {**(collections or {}), "params": params}
        if not dense:
            return model.apply(variables, *args, method=method, **kwargs)
        if adapter_ids is not None:
            flat = flatten(factors)
            adapter_ids = _checked_ids(adapter_ids, len(next(iter(flat.values()))))
            if kwargs.get("logits_at") is not None:
                raise UserError("logits_at mixes positions of several rows; with adapter_ids call the model without it")
            factors = unflatten({site.path: site.layers_first(site.own(flat)) for site in sites})
        used: set[Path] = set()
        drop = any(site.transform.random for site in dense.values()) and dropout_acts(model, method, args, kwargs)
        with nn.intercept_methods(interceptor(dense, used, drop=drop, ids=adapter_ids, shards=shards)):
            out = model.apply({**variables, COLLECTION: factors}, *args, method=method, **kwargs)
        unused = [path for path in dense if path not in used]
        if unused and method is None:
            raise UserError(
                f"{show(unused[0])} has factors and was never called as a layer ({len(unused)} such); "
                "merge them, adapter.merge(params, factors), and run the model plainly, or exclude the path"
            )
        return out

    def merge(self, params: Params, factors: PyTree[Array]) -> dict[str, Any]:
        """Parameters with which the plain model computes what `apply` does. Leaves that do not change are not copied.

        Raises:
            UserError: the factors are not those of this adapter for these parameters, or (outside of `jit`, where
                values are known) a merged parameter is not finite.
        """
        sites = self.check(params, factors)
        merged = _merged(sites, params, factors)
        self.check_finite(merged)
        return merged

    def check_finite(self, merged: Params) -> None:
        """Check that all values that `merge` wrote are finite. Under `jit` values are not known, and not checked.

        Raises:
            UserError: one is not; the message names its parameter.
        """
        flat = flatten(merged)
        for path in self.leaves(merged):
            finite = jnp.isfinite(flat[path]).all()
            if not isinstance(finite, jax.core.Tracer) and not bool(finite):
                raise UserError(
                    f"the merged {show(path)} has values that are not finite; check the factors and the dtype"
                )

    def leaves(self, params: Params) -> list[Path]:
        """The paths of the parameters that `merge` replaces."""
        flat = flatten(params)
        return [path for site in self.sites(params) for path in site.leaves(flat)]

    def kept(self, params: Params) -> dict[str, Any]:
        """The parameters that `merge` replaces. `unmerge` needs them if the base is not kept elsewhere."""
        flat = flatten(params)
        return unflatten({path: flat[path] for path in self.leaves(params)})

    def unmerge(self, merged: Params, base: Params) -> dict[str, Any]:
        """Restore the base to the bit: W0 is put back, not computed by a division.

        Args:
            merged: from `merge`.
            base: from `kept`, before merging, or the whole base.

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
        """Check that the factors are exactly those of the sites, with the right shapes, and return the sites.

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
        """The number of trainable parameters, and of the base's."""
        total = sum(math.prod(leaf.shape) for leaf in flatten(params).values())
        return Count(sum(site.count for site in self.sites(params)), total)

    def report(self, params: Params) -> str:
        """A table of the sites, then the totals: path, kernel's shape, factors' shapes, trainable parameters."""
        return table(self.sites(params), self.count(params))

    def learning_rate_multipliers(self, params: Params, *, also_train: float | None = None) -> PyTree[float]:
        """The learning-rate multiplier of each factor, as a tree like the factors'.

        Args:
            params: the base's parameters, or their shapes.
            also_train: the multiplier of the modules in `also_train`. Without it they train at the default learning
                rate of full fine-tuning if the factors train at that of the transformation.

        Raises:
            UserError: as `sites`, or the multiplier is no finite number of 0 or more.
        """
        if also_train is None:
            also_train = Full.learning_rate / self.transform.learning_rate if self.also_train else 1.0
        return multipliers_of(self.sites(params), also_train)

    def optimizer(
        self,
        maker: Callable[..., Any],
        learning_rate: Any = None,
        *args: Any,
        params: Params,
        also_train: float | None = None,
        **kwargs: Any,
    ) -> optax.GradientTransformationExtraArgs:
        """`maker(learning_rate, *args, **kwargs)` over the factors, each at its own multiple of the learning rate.

        Each factor's updates are multiplied by its `learning_rate_multipliers`, so its weight decay is, too. It pulls
        towards the base, since factors are deviations. The state is that of the maker's own optimiser.

        Args:
            maker: makes an optimiser whose updates are proportional to the learning rate, such as `optax.adamw`.
            learning_rate: a number or a schedule.
            *args: the maker's own.
            params: the base's parameters, or their shapes.
            also_train: as in `learning_rate_multipliers`.
            **kwargs: the maker's own.

        Raises:
            UserError: as `sites`, or the maker or an argument is wrong. The optimiser raises one, too, if it is given
                another tree than the factors', or if its updates are known not to be proportional.
        """
        if also_train is not None and not self.also_train:
            raise UserError("also_train= was given, but the adapter has no also_train= modules")
        multipliers = self.learning_rate_multipliers(params, also_train=also_train)
        shapes = {(*site.path, name): shape for site in self.sites(params) for name, shape in site.factors.items()}
        return scaled_optimizer(maker, learning_rate, *args, shapes=shapes, multipliers=multipliers, **kwargs)

    def _candidates(self, flat: Mapping[Path, Any]) -> list[Path]:
        """The paths in which targets are searched: dense layers, or the parameters that the transformation takes."""
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
    """The parameters, with the factors of these sites merged into them."""
    flat, flat_factors = flatten(params), flatten(factors)
    merged = dict(flat)
    for site in sites:
        merged.update(site.merge(flat, site.own(flat_factors)))
    return unflatten(merged)


def _checked_ids(ids: Any, sets: int) -> Int[Array, " batch"]:
    """Check that the indices are whole numbers and, outside of `jit`, in range, and return them."""
    known = None if isinstance(ids, jax.core.Tracer) else np.asarray(ids)  # JAX would trace it under `jit`
    ids = jnp.asarray(ids)
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise UserError(
            f"adapter_ids are {ids.dtype}{list(ids.shape)}; one whole number for each row of the batch is expected"
        )
    if known is not None and len(known) and (known.min() < 0 or known.max() >= sets):
        raise UserError(f"adapter_ids go from {known.min()} to {known.max()}, and there are {sets} sets of factors")
    return ids
