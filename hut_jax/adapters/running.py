"""Run a model with factors: some sites in the layer itself, the others merged before the model runs.

`model.apply(merge(params, factors))` is what every call means. A layer that runs adapted in place reads W0 and applies
the factors itself. This is the same if, and only if, no other part of the model reads W0. So the model is traced with a
mark in place of each layer that could run adapted, and each kernel is followed through the trace. If it goes anywhere
but into its own mark, as a tied kernel or one under `nn.WeightNorm` does, it is merged before the model runs.

The factors lie among the model's variables, which a model may count or look through. So it is traced without them too.
If the marks change anything else of the trace, every site is merged. No trace is kept for another call: what a model
reads (a config, a global) may change between two calls, and under `jit` there is one trace for each compilation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, freeze
from jaxtyping import Array, Int

from hut_jax.adapters.interceptor import (
    COLLECTION,
    ChangedUnderWay,
    Here,
    Static,
    dropout_acts,
    intercept,
    others_intercept,
)
from hut_jax.adapters.params import closed, opened
from hut_jax.adapters.site import Site
from hut_jax.adapters.tracing import Trace, is_array, trace_marked
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show, unflatten
from hut_jax.transforms.base import Factors


@dataclass(frozen=True)
class Call:
    """A call of a model, but for its parameters.

    Attributes:
        model: the model.
        method: as in `model.apply`.
        args: the model's own.
        kwargs: the model's own.
        collections: the model's other variables.
    """

    model: nn.Module
    method: Any
    args: tuple
    kwargs: dict[str, Any]
    collections: Mapping[str, Any]

    def run(self, params: Any, factors: Mapping[Path, Here]) -> Any:
        """Run the model with these parameters, and with these factors in place."""
        variables = {**self.collections, "params": params}
        if not factors:
            return self.model.apply(variables, *self.args, method=self.method, **self.kwargs)
        # The model ran with traced arrays in place of NumPy's, which not all of JAX takes within a `vmap`.
        variables, args, kwargs = jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf,
            (variables, self.args, self.kwargs),
        )
        with nn.intercept_methods(intercept):
            out = self.model.apply({**variables, COLLECTION: unflatten(factors)}, *args, method=self.method, **kwargs)
        if self.kwargs.get("mutable", False) is False or COLLECTION not in out[1]:
            return out
        changed = {name: own for name, own in out[1].items() if name != COLLECTION}
        return out[0], freeze(changed) if isinstance(out[1], FrozenDict) else changed


def run_adapted(
    call: Call,
    params: Mapping[str, Any],
    sites: Sequence[Site],
    factors: Mapping[Path, Array],
    *,
    ids: Int[Array, " batch"] | None = None,
    shards: int = 1,
) -> Any:
    """Run the model as on merged parameters.

    Args:
        call: the model's call.
        params: its parameters.
        sites: the adapter's sites in them.
        factors: the factors by path; with `ids`, sets of them are stacked on a new first axis.
        ids: the index of each row's factor set.
        shards: the number of parts into which devices split the batch.

    Raises:
        UserError: rows have different factors, or dropout acts, at a site that must be merged.
    """
    flat = opened(params)
    for site in sites:
        if site.layout is None:
            if ids is not None:
                raise UserError(f"{show(site.path)} trains in full, and cannot differ from row to row of a batch")
            flat.update(site.merge(flat, site.own(factors)))
    kernels = [site for site in sites if site.layout is not None]
    if not kernels:
        return call.run(closed(flat, params), {})
    if ids is not None and call.kwargs.get("logits_at") is not None:
        raise UserError("logits_at mixes positions of several rows; with adapter_ids call the model without it")
    own = [site.own(factors) if ids is None else site.layers_first(site.own(factors)) for site in kernels]
    drop = any(site.transform.random for site in kernels) and dropout_acts(
        call.model, call.method, call.args, call.kwargs
    )
    found = _traced(call, params, flat, kernels, own, ids)

    def run(found: Trace) -> Any:
        changed, here = dict(flat), {}
        for index, (site, its) in enumerate(zip(kernels, own, strict=True)):
            in_layer = ids is not None or (drop and site.transform.random)
            # A form that scales the input would multiply an input of its own by each kernel, and change bits.
            rescaled = index in found.one_input and not site.transform.forms_kernel
            if found.here(index) and (in_layer or not rescaled):
                here[site.kernel] = _here(site, its, index, ids, drop=drop, shards=shards)
            elif found.read(index) or rescaled:
                if in_layer:
                    what = "rows cannot have factors of their own" if ids is not None else "its dropout cannot act"
                    raise UserError(
                        f"{show(site.kernel)} must be merged before the model runs, so {what}: {found.why(index)}; "
                        "exclude it" + ("" if ids is not None else ", or set the dropout to 0")
                    )
                # Behind a barrier, so that the model is compiled as for any parameters, and zero factors change no bit.
                changed.update(jax.lax.optimization_barrier(site.merge(flat, its)))
        return call.run(closed(changed, params), here)

    try:
        return run(found)
    except ChangedUnderWay as error:
        return run(Trace(failed=f"{error} runs in another way than in a trace"))
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        return run(Trace(failed="it runs under forward-mode differentiation"))


def _here(
    site: Site,
    factors: Factors,
    index: int,
    ids: jax.Array | None,
    *,
    drop: bool = False,
    shards: int = 1,
    mark: bool = False,
) -> Here:
    assert site.layout is not None
    if ids is not None:
        ids = jnp.broadcast_to(ids, (*site.layout.stack, *ids.shape))
    return Here(factors, ids, Static.of(site), index, drop, shards, mark)


def _traced(
    call: Call,
    params: Mapping[str, Any],
    flat: Mapping[Path, Any],
    sites: Sequence[Site],
    own: Sequence[Factors],
    ids: jax.Array | None,
) -> Trace:
    """The trace of the model in this call."""
    if COLLECTION in call.collections:
        return Trace(failed=f'the model has a collection of its own called "{COLLECTION}"')
    if others_intercept():
        return Trace(failed="another interceptor of Flax is at work, which must see the plain layer")
    places = [(*site.leaves, *sorted(site.factors)) for site in sites]
    leaves = [
        [*(flat[path] for path in site.leaves), *(its[name] for name in sorted(its))]
        for site, its in zip(sites, own, strict=True)
    ]
    given, tree = jax.tree.flatten((call.args, call.kwargs, dict(call.collections)))
    static = [None if is_array(leaf) else (type(leaf), leaf) for leaf in given]
    arrays = [leaf for leaf in given if is_array(leaf)]
    mine = {path for site in sites for path in site.leaves}
    others = {path: leaf for path, leaf in flat.items() if path not in mine}
    rest = [list(others.values()), arrays, ids]

    def run(marked, leaves, rest):
        values, arrays, ids = rest
        changed, here = dict(zip(others, values, strict=True)), {}
        for index, (site, place, its) in enumerate(zip(sites, places, leaves, strict=True)):
            named = dict(zip(place, its, strict=True))
            changed.update({path: named[path] for path in site.leaves})
            if index in marked:
                here[site.kernel] = _here(site, {name: named[name] for name in site.factors}, index, ids, mark=True)
        dynamic = iter(arrays)
        refilled = [next(dynamic) if one is None else one[1] for one in static]
        args, kwargs, collections = jax.tree.unflatten(tree, refilled)
        return Call(call.model, call.method, args, kwargs, collections).run(closed(changed, params), here)

    marked = [index for index, site in enumerate(sites) if site.kernel[-1] == "kernel"]
    return trace_marked(run, leaves, rest, marked, [len(site.leaves) for site in sites])
