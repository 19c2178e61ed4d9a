"""Adapt a model of NNX: a copy of it whose targeted parameters are read as `U(W0)`, and which holds the factors."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.params import opened_factors
from hut_jax.adapters.sharding import shared_axes
from hut_jax.adapters.site import Site
from hut_jax.core.any_tree import FACTORS
from hut_jax.core.errors import UserError
from hut_jax.core.nnx_walk import Held, modules, variables
from hut_jax.core.trees import Path, flatten, show, unflatten
from hut_jax.nnx import forms, past
from hut_jax.nnx.checking import Checked
from hut_jax.nnx.factors import Factors
from hut_jax.nnx.modules import DROPOUT, Adapted, Spec, adapted_class

Model = TypeVar("Model", bound=nnx.Module)


def adapt(
    model: Model,
    adapter: Adapter,
    *,
    rngs: nnx.Rngs | jax.Array | int | None = None,
    factors: PyTree[Array] | None = None,
) -> Model:
    """A copy of an NNX model in which every targeted parameter is read as `U(W0)`.

    The arrays of the base are shared with the model, which stays as it is. Factors are Variables of the type `Factors`,
    in the attribute `adapter_factors` of the module that owns the kernel. The base's parameters keep their paths.

    The transformation's own dropout (LoRA's) acts in `model.train()`, and not in `model.eval()`.

    Args:
        model: of any modules, stacked by `nnx.vmap` or `nnx.scan` if they are.
        adapter: the transformation and its targets, as for a Linen model.
        rngs: draws the factors, from its stream `params`, and the transformation's dropout, from its stream `dropout`.
        factors: the factors, such as those of `load_adapter`; without them, those of `adapter.init`.

    Raises:
        UserError: as `Adapter.init`; the model is no NNX model, or is adapted already; a targeted parameter lies where
            no module can read it adapted.
    """
    _check(model, adapter)
    streams = nnx.Rngs(rngs) if isinstance(rngs, int | jax.Array) else rngs
    if streams is None and (factors is None or adapter.transform.random):
        raise UserError("give rngs=nnx.Rngs(0), from which the factors (and the adapter's dropout) are drawn")
    if factors is None:
        assert streams is not None
        factors = adapter.init(streams.params(), model)
    sites = adapter.check(model, factors)
    flat = opened_factors(factors)
    adapted = nnx.clone(model)
    places = _places(adapted)
    specs: dict[int, list[Spec]] = {}
    owners: dict[int, nnx.Module] = {}
    for site in sites:
        made = {(*site.path, name): _factor(site, name, flat[*site.path, name], places) for name in site.factors}
        for held in places[site.kernel]:
            spec = _spec(site, held, places)
            specs.setdefault(id(held.module), []).append(spec)
            owners[id(held.module)] = held.module
            _hold(held.module, {(*spec.factors, path[-1]): variable for path, variable in made.items()})
            if site.transform.random and DROPOUT not in vars(held.module):
                setattr(held.module, DROPOUT, _dropout(site, streams))
    _change_classes(adapted, owners, specs)
    return adapted


def _check(model: Any, adapter: Any) -> None:
    order = "the order is hut_jax.nnx.adapt(model, adapter, rngs=nnx.Rngs(0))"
    if isinstance(model, nn.Module):
        raise UserError(f"{type(model).__name__} is a Linen model: use adapter.apply(model, params, factors, *inputs)")
    if not isinstance(model, nnx.Module):
        raise UserError(f"model= is of type {type(model).__name__}, and no NNX model; {order}")
    if not isinstance(adapter, Adapter):
        raise UserError(f"adapter= is of type {type(adapter).__name__}; {order}, with hut_jax.Adapter(...)")
    for path, module in modules(model):
        if isinstance(module, Adapted):
            raise UserError(
                f"{show(path) or 'the model'} is adapted already: merge it first, hut_jax.nnx.merge(model), or take "
                "its base, hut_jax.nnx.base(model)"
            )


def _places(model: nnx.Module) -> dict[Path, list[Held]]:
    """Where each parameter is held, by the path that NNX gives it: there first, then wherever else it is tied to.

    A parameter in a structure into which we cannot look has no place.
    """
    held: dict[int, list[Held]] = {}
    for place in variables(model):
        held.setdefault(id(place.variable), []).append(place)
    by_path = {(*place.path, *place.within): place.variable for places in held.values() for place in places}
    places: dict[Path, list[Held]] = {}
    for keys, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        path = tuple(map(str, keys))
        own = held.get(id(by_path.get(path)), [])
        places[path] = sorted(own, key=lambda place: (*place.path, *place.within) != path)
    return places


def _spec(site: Site, held: Held, places: Mapping[Path, list[Held]]) -> Spec:
    """The site as the module that holds its kernel sees it."""
    bias = None
    if site.bias is not None:
        for place in places[site.bias]:
            if place.module is held.module and place.within[:-1] == held.within[:-1]:
                bias = place.within
    first = places[site.kernel][0]
    letters = None if site.layout is None else site.layout.letters
    stacked = 0 if site.layout is None else len(site.layout.stack)
    return Spec(
        site.transform,
        site.kernel,
        held.within,
        bias,
        letters,
        site.path[len(first.path) :],
        tuple((name, len(shape) - stacked) for name, shape in site.factors.items()),
        # A form computes with the site's bias; this module's own may be another where a kernel is tied.
        forms.has_form(held, letters) and (bias is None) == (getattr(held.module, "bias", None) is None),
    )


def _factor(site: Site, name: str, value: Any, places: Mapping[Path, list[Held]]) -> Factors:
    """A factor's Variable, with the sharding of the axes that it shares with the kernel."""
    if not places.get(site.kernel):
        raise UserError(
            f"{show(site.kernel)} lies in a structure whose parts cannot be read adapted; exclude it, or run the model "
            "on merged parameters, adapter.merge(nnx.state(model, nnx.Param), factors)"
        )
    kernel = places[site.kernel][0].variable
    names = kernel.get_metadata().get("out_sharding")
    metadata: dict[str, Any] = {}
    if names is not None:
        metadata["out_sharding"] = shared_axes(site, names)[name]
        metadata |= {key: kernel.get_metadata()[key] for key in ("sharding_rules", "mesh") if kernel.has_metadata(key)}
    if metadata and jax.sharding.get_abstract_mesh().empty and "mesh" not in metadata:
        metadata["eager_sharding"] = False
    return Factors(jnp.asarray(value), **metadata)


def _hold(module: nnx.Module, factors: Mapping[Path, Factors]) -> None:
    """Put these factors into the module's tree of factors."""
    own = flatten(vars(module).get(FACTORS, {}))
    setattr(module, FACTORS, nnx.data(unflatten({**own, **factors})))


def _dropout(site: Site, streams: nnx.Rngs | None) -> nnx.Dropout:
    """The random numbers of a site's dropout, one stream for each stacked layer."""
    assert streams is not None
    dropout = nnx.Dropout(getattr(site.transform, "dropout", 0.0), deterministic=False, rngs=streams)
    stack = () if site.layout is None else site.layout.stack
    if stack:
        key = dropout.rngs()
        dropout.rngs.key.set_value(jax.random.split(key, stack))
        dropout.rngs.count.set_value(jnp.zeros(stack, jnp.uint32))
    return dropout


def _change_classes(model: nnx.Module, owners: Mapping[int, nnx.Module], specs: Mapping[int, list[Spec]]) -> None:
    """Give the owners of targeted parameters, the modules that read past them, and the outermost one new classes."""
    calls: dict[int, Callable[..., Any] | None] = {}
    for key in owners:
        own = specs[key]
        calls[key] = forms.run if len(own) == 1 and own[0].form else None
    changed = {**owners, id(model): model}
    for key, caller in past.callers(model, owners).items():
        changed[key], calls[key] = caller.module, caller.run
    if id(model) not in calls or calls[id(model)] is None:
        calls[id(model)] = Checked(nnx.graphdef(model), None) if callable(model) else None
    for key, module in changed.items():
        adapted = adapted_class(type(module), tuple(specs.get(key, ())), calls[key])
        object.__setattr__(module, "__class__", adapted)
