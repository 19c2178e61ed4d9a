"""An adapter: a transformation and the sites it acts on. Files are handled in another module."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from hut_jax.adapters.layout import check_letters
from hut_jax.adapters.optimizer import multipliers_of, scaled_optimizer
from hut_jax.adapters.params import (
    check_key,
    check_model,
    check_names,
    checked_ids,
    closed,
    opened,
    opened_factors,
    untie,
    without,
)
from hut_jax.adapters.report import Count, table
from hut_jax.adapters.running import Call, run_adapted
from hut_jax.adapters.sharding import boxed_factors
from hut_jax.adapters.site import Choice, Site
from hut_jax.adapters.targets import PatternsField, RulesField, as_patterns, as_rules
from hut_jax.core.any_tree import layouts_of
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.trees import Path, show, split, unflatten
from hut_jax.transforms import TRANSFORMS, Full, Transform, make_transform
from hut_jax.transforms.base import check_rank

Params = Any
"""The base's parameters, or their shapes: Linen's tree of dicts, an NNX model or its state, or any tree of arrays."""


@dataclass(frozen=True)
class Adapter:
    """A transformation applied to some of a model's parameters.

    Attributes:
        transform: the transformation of each kernel, such as `HUT(rank=8)`.
        targets: patterns (regular expressions) that are searched in '/'-joined paths, those of modules and those of
            parameters. A module stands for its kernel. "all-linear" takes every kernel whose axes can be told, but no
            embedding: name that or its module. A transformation of whole leaves takes any parameter. Without patterns
            the transformation's default targets apply.
        exclude: patterns of paths to leave alone.
        ranks: ranks by pattern, such as `{"mlp/": 4}`, for sites whose rank is not the transformation's. The first
            match counts.
        layout: layouts by pattern, such as `{"^layers/": "lio"}`, for kernels whose shape does not tell their axes. A
            layout has one letter for each axis, in any order: l for a stack (of layers, of experts), i for inputs, o
            for outputs. "oi" is a matrix that is stored transposed.
        also_train: patterns of modules that train in full beside the factors, such as a new head. "all-linear" and the
            default targets leave these modules out. An embedding must be named in full, since a head tied to it trains
            too. A parameter that is named in full, such as `layer_0/mlp/up/bias`, trains alone. It may be the bias or
            the kernel of a target; the transformation then acts on the trained value.
        untied: kernels that take the place of a tied table, such as `{"lm_head/kernel": "token_embedding/embedding"}`.
            Each starts as the transposed table, and targets and `also_train` name it as any other kernel. The model
            must read such a kernel where it is in the parameters, as the models of this library do.
    """

    transform: Transform
    targets: PatternsField = PatternsField(as_patterns, None)
    _: KW_ONLY
    exclude: PatternsField = PatternsField(as_patterns, None)
    ranks: RulesField = RulesField(as_rules, ())
    layout: RulesField = RulesField(as_rules, ())
    also_train: PatternsField = PatternsField(as_patterns, None)
    untied: RulesField = RulesField(as_rules, ())

    def __post_init__(self):
        _check_transform(self.transform)
        if self.ranks and not hasattr(self.transform, "rank"):
            raise UserError(f"ranks= was given, but {self.transform.name} has no rank")
        for pattern, rank in self.ranks:
            check_rank(f"ranks= at {pattern!r}", rank)
        for pattern, text in self.layout:
            try:
                check_letters(text)
            except UserError as error:
                raise UserError(f"layout= at {pattern!r}: {error}") from None
        for kernel, of in self.untied:
            if not isinstance(of, str) or not kernel or not of:
                raise UserError(f"untied= must map a kernel's path to a table's path, not {kernel!r} to {of!r}")

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
        own = {field.name: getattr(self, field.name) for field in fields(self)} | {"transform": transform}
        return own if self.untied else {name: value for name, value in own.items() if name != "untied"}

    def sites(self, params: Params) -> list[Site]:
        """The sites of this adapter in these parameters (arrays or shapes), in the order of the tree.

        Raises:
            UserError: a pattern matches nothing, or the transformation does not fit a kernel that one matches.
        """
        return self._choice(params).find(opened(untie(params, self.untied)))

    def _choice(self, params: Params) -> Choice:
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "untied"}
        return Choice(**given, told=tuple(layouts_of(params).items()))

    def init(self, key: jax.Array, params: Params) -> PyTree[Array]:
        """Factors with which the model still equals the base, in a tree that mirrors the modules' paths.

        Raises:
            UserError: as `sites`.
        """
        check_key(key)
        params = untie(params, self.untied)
        flat, sites, factors = opened(params), self.sites(params), {}
        for site in sites:
            # The key depends on the site's path, so that other targets do not change these factors.
            own = site.init(jax.random.fold_in(key, zlib.crc32(show(site.path).encode())), flat)
            factors.update({(*site.path, name): leaf for name, leaf in own.items()})
        return unflatten(boxed_factors(factors, sites, params))

    def apply(
        self,
        model: nn.Module,
        params: Params,
        factors: PyTree[Array],
        *args: Any,
        method: Any = None,
        adapter_ids: Int[Array, " batch"] | None = None,
        collections: Mapping[str, Any] | None = None,
        shards: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """`model.apply({"params": params}, *args, **kwargs)` with these factors, for any Linen model.

        It means `model.apply({"params": self.merge(params, factors)}, ...)`. Where nothing else reads a kernel than an
        `nn.Dense`, `nn.DenseGeneral` or `nn.Einsum` of Flax's own, the layer itself runs with the factors, which takes
        less memory and, for some transformations, forms no W. To know this, the model is traced twice more in each
        call. Under `jit` this happens once for each compilation. Derivatives in forward mode (`jax.jvp`, `jax.hessian`)
        of a compiled function need `merge`, for a transformation with a backward pass of its own (HUT at rank 2 or
        more; LoRA in bfloat16 on a CPU with matrix units).

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
                adapted layer, if it is not 1. The result does not depend on it, but the right number saves
                communication in training.
            **kwargs: the model's own.

        Raises:
            UserError: the factors are not those of this adapter for these parameters; or with `adapter_ids`, or if the
                transformation's dropout acts, a kernel must be merged before the model runs; or the model has an
                argument of its own with the name of one of these, and it is given by that name.
        """
        check_model(model, params)
        check_names(model, method, {"adapter_ids": adapter_ids, "collections": collections, "shards": shards})
        params = untie(params, self.untied)
        sites = self.check(params, factors, stacked=adapter_ids is not None)
        given = opened_factors(factors)
        ids = None if adapter_ids is None else checked_ids(adapter_ids, len(next(iter(given.values()))))
        call = Call(model, method, args, kwargs, collections or {})
        return run_adapted(call, params, sites, given, ids=ids, shards=shards or 1)

    def merge(self, params: Params, factors: PyTree[Array]) -> dict[str, Any]:
        """Parameters with which the plain model computes what `apply` does. Leaves that do not change are not copied.

        Raises:
            UserError: the factors are not those of this adapter for these parameters, or (outside of `jit`, where
                values are known) a merged parameter is not finite.
        """
        params = untie(params, self.untied)
        sites = self.check(params, factors)
        flat, given = opened(params), opened_factors(factors)
        merged = dict(flat)
        for site in sorted(sites, key=lambda site: site.layout is not None):  # whole leaves first, as in apply
            merged.update(site.merge(merged, site.own(given)))
        self._check_finite(sites, merged, flat)
        return closed(merged, params)

    def check_finite(self, merged: Params) -> None:
        """Check that all values that `merge` wrote are finite. Under `jit` values are not known, and not checked.

        Raises:
            UserError: one is not; the message names its parameter.
        """
        self._check_finite(self.sites(merged), opened(merged))

    @staticmethod
    def _check_finite(sites: Sequence[Site], flat: Mapping[Path, Any], base: Mapping[Path, Any] | None = None) -> None:
        """Check it; with the base, only for values that are finite there."""
        for path in (path for site in sites for path in site.leaves):
            kept = jnp.isfinite(flat[path])
            finite = (kept if base is None else kept | ~jnp.isfinite(base[path])).all()
            if not isinstance(finite, jax.core.Tracer) and not bool(finite):
                raise UserError(
                    f"the merged {show(path)} has values that are not finite; check the factors and the dtype"
                )

    def leaves(self, params: Params) -> list[Path]:
        """The paths of the parameters that `merge` replaces."""
        return [path for site in self.sites(params) for path in site.leaves]

    def kept(self, params: Params) -> dict[str, Any]:
        """The parameters that `merge` replaces. `unmerge` needs them if the base is not kept elsewhere."""
        flat, heads = opened(params), [split(kernel) for kernel, _ in self.untied]
        return unflatten({path: flat[path] for path in [*self.leaves(params), *heads] if path in flat})

    def unmerge(self, merged: Params, base: Params) -> dict[str, Any]:
        """Restore the base to the bit: W0 is put back, not computed by a division.

        Args:
            merged: from `merge`.
            base: from `kept`, before merging, or the whole base.

        Raises:
            UserError: a parameter that `merge` replaced is missing in `base`, or has another shape or dtype there.
        """
        flat, old = opened(merged), opened(base)
        leaves = self.leaves(merged)
        for path in (split(kernel) for kernel, _ in self.untied):
            if path in flat and path not in old:
                merged, leaves = without(merged, path), [leaf for leaf in leaves if leaf != path]
        for path in leaves:
            if path not in old:
                raise UserError(f"the base to put back has no {show(path)}; {nearest(show(path), map(show, old))}")
            if (old[path].shape, old[path].dtype) != (flat[path].shape, flat[path].dtype):
                raise UserError(
                    f"{show(path)} is {old[path].dtype}{list(old[path].shape)} in the base to put back and "
                    f"{flat[path].dtype}{list(flat[path].shape)} in what was merged: they do not belong together"
                )
            flat[path] = old[path]
        return closed(flat, merged)

    def check(self, params: Params, factors: PyTree[Array], *, stacked: bool = False) -> list[Site]:
        """Check that the factors are exactly those of the sites, with the right shapes, and return the sites.

        Raises:
            UserError: they are not.
        """
        flat, sites = opened_factors(factors), self.sites(params)
        wanted = {(*site.path, name): shape for site in sites for name, shape in site.factors.items()}
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
        total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(dict(opened(params))))
        return Count(sum(site.count for site in self.sites(params)), total)

    def report(self, params: Params) -> str:
        """A table of the sites, then the totals and what is left out.

        Its columns: path, the kernel's shape and axes (as in `layout`), the factors' shapes, trainable parameters.
        """
        left_out = self._choice(params).left_out(opened(untie(params, self.untied)))
        return table(self.sites(params), self.count(params), self.transform, left_out)

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


def _check_transform(transform: Any) -> None:
    if isinstance(transform, Transform):
        return
    order = "the order is Adapter(transform, targets)"
    if isinstance(transform, type) and issubclass(transform, Transform):
        raise UserError(f"transform= is the class {transform.__name__}: give one of it, {transform.__name__}()")
    if isinstance(transform, str) and transform in TRANSFORMS:
        name = TRANSFORMS[transform].__name__
        raise UserError(f"transform= is the text {transform!r}: give the transformation itself, hut_jax.{name}()")
    what = "None" if transform is None else f"of type {type(transform).__name__}"
    raise UserError(f"transform= is {what}, and no transformation such as hut_jax.HUT(rank=8); {order}")
