"""Run a model with factors: some sites in the layer itself, the others merged before the model runs.

`model.apply(merge(params, factors))` is what every call means. A layer that runs adapted in place reads W0 and applies
the factors itself. This is the same if, and only if, no other part of the model reads W0. So the model is traced once,
with a mark in place of each layer that could run adapted, and each kernel is followed through the trace. If it goes
anywhere but into its own mark, as a tied kernel or one under `nn.WeightNorm` does, it is merged before the model runs.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from hut_jax.adapters.following import Trace, follow
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
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show, unflatten
from hut_jax.transforms.base import Factors

_ATTEMPTS = 64  # how often sites are halved at most, to find those whose marks disturb a module
_KEPT = 512  # how many traces are remembered


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
        if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], Mapping) and COLLECTION in out[1]:
            out = out[0], {name: own for name, own in out[1].items() if name != COLLECTION}
        return out


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
            if found.here(index):
                here[site.kernel] = _here(site, its, index, ids, drop=drop, shards=shards)
            elif found.read(index):
                if ids is not None or (drop and site.transform.random):
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


_traces: dict[Any, Trace] = {}


def _traced(
    call: Call,
    params: Mapping[str, Any],
    flat: Mapping[Path, Any],
    sites: Sequence[Site],
    own: Sequence[Factors],
    ids: jax.Array | None,
) -> Trace:
    """The trace of the model in this call, or one of a call like it."""
    if others_intercept():
        return Trace(failed="another interceptor of Flax is at work, which must see the plain layer")
    places = [(*site.leaves, *sorted(site.factors)) for site in sites]
    leaves = [
        [*(flat[path] for path in site.leaves), *(its[name] for name in sorted(its))]
        for site, its in zip(sites, own, strict=True)
    ]
    given, tree = jax.tree.flatten((call.args, call.kwargs, dict(call.collections)))
    static = [None if _is_array(leaf) else (type(leaf), leaf) for leaf in given]
    arrays = [leaf for leaf in given if _is_array(leaf)]
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
        out = Call(call.model, call.method, args, kwargs, collections).run(closed(changed, params), here)
        return [leaf for leaf in jax.tree.leaves(out) if _is_array(leaf)]

    key: Any = None
    try:
        avals = tuple(map(jax.typeof, jax.tree.leaves((leaves, rest))))
        boxes = jax.tree.structure(params)
        what = tuple((site.kernel, site.bias, site.layout, Static.of(site)) for site in sites)
        key = (_frozen(call.model), call.method, tree, tuple(static), boxes, what, avals, ids is None)
        if key in _traces:
            return _traces[key]
    except TypeError:  # something has no hash
        key = None
    found = _trace(run, leaves, rest, [index for index, site in enumerate(sites) if site.kernel[-1] == "kernel"])
    if key is not None:
        while len(_traces) >= _KEPT:
            _traces.pop(next(iter(_traces)))
        _traces[key] = found
    return found


def _trace(run: Callable[..., Any], leaves: Sequence[Sequence[Any]], rest: Any, sites: Sequence[int]) -> Trace:
    """Trace the model with a mark at each of these sites.

    A mark may disturb a module: `nn.WeightNorm` normalises whatever lies beside a kernel, the factors too. Then the
    model is traced for halves of the sites, and halves of these.

    Args:
        run: the model, as a function of the sites to mark, the leaves and the other arrays.
        leaves: for each site its kernel, its bias if there is one, its factors.
        rest: the other arrays.
        sites: those to mark.
    """
    ends = list(itertools.accumulate(map(len, leaves), initial=0))
    reads = [tuple(range(*pair)) for pair in itertools.pairwise(ends)]
    owners = {place: site for site, read in enumerate(reads) for place in read}
    whole = Trace()

    def failure(marked: Sequence[int]) -> str:
        """Trace once. The name of the error, if there is one."""
        try:
            jaxpr = jax.make_jaxpr(partial(run, set(marked)))(leaves, rest).jaxpr
        except Exception as error:  # the model may need values; or it is wrong, and says so itself when it runs
            return type(error).__name__
        found = Trace()
        follow(jaxpr, {var: place for place, var in enumerate(jaxpr.invars[: len(owners)])}, reads, owners, found)
        others = whole.elsewhere - set(marked) if whole.elsewhere else found.elsewhere
        whole.elsewhere = others | (found.elsewhere & set(marked))
        whole.marked |= found.marked
        return ""

    if not failure(sites):
        return whole
    if error := failure([]):
        whole.failed = f"the model cannot be traced ({error})"
        return whole
    left = [list(sites)]
    for _ in range(_ATTEMPTS):
        if left and len(marked := left.pop()) > 1:
            half = len(marked) // 2
            left += [part for part in (marked[:half], marked[half:]) if failure(part)]
    return whole


def _frozen(value: Any) -> Any:
    """A model, with tuples for the lists and dicts in its fields, which have no hash."""
    if isinstance(value, nn.Module):
        return type(value), tuple(_frozen(getattr(value, one.name)) for one in fields(value) if one.name != "parent")
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_frozen, value))
    if isinstance(value, Mapping):
        return type(value), tuple((key, _frozen(own)) for key, own in value.items())
    return value


def _is_array(leaf: Any) -> bool:
    """Whether a leaf of the arguments is traced. What is not stays as it is, as under `static_argnums`."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)
