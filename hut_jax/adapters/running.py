"""Run a model with factors: some sites in the layer itself, the others merged before the model runs.

`model.apply(merge(params, factors))` is what every call means. A layer that runs adapted in place reads W0 and applies
the factors itself. This is the same if, and only if, no other part of the model reads W0. So the model is traced once,
with a mark in place of each layer that could run adapted, and each kernel is followed through the trace. If it goes
anywhere but into its own mark, as a tied kernel or one under `nn.WeightNorm` does, it is merged before the model runs.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex
from jaxtyping import Array, Int

from hut_jax.adapters.interceptor import (
    COLLECTION,
    MARK,
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

_SAME_ARGUMENTS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "scan", "shard_map"}
)
"""Primitives that hand all their arguments, or slices of them, to one function."""

Reads = Sequence[tuple[int, ...]]
"""For each site the places of its leaves: the kernel, the bias if there is one, the factors."""

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


@dataclass
class Trace:
    """What a trace of the model tells, by the index of the site.

    Attributes:
        marked: the sites whose layer could run adapted.
        elsewhere: the sites of which something else reads a leaf.
        failed: why there is no trace, if there is none.
    """

    marked: set[int] = field(default_factory=set)
    elsewhere: set[int] = field(default_factory=set)
    failed: str = ""

    def here(self, site: int) -> bool:
        """Whether this site may run adapted in the layer."""
        return site in self.marked and site not in self.elsewhere

    def read(self, site: int) -> bool:
        """Whether this site must be merged before the model runs."""
        return bool(self.failed) or site in self.elsewhere

    def why(self, site: int) -> str:
        """Why it must."""
        if self.failed:
            return self.failed
        if site in self.marked:
            return "something else reads its kernel too"
        return (
            "it does not run with its factors as an nn.Dense, nn.DenseGeneral or nn.Einsum (an nn.scan or nn.vmap "
            f'around it would need variable_axes={{"params": 0, "{COLLECTION}": 0}})'
        )


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
        _follow(jaxpr, {var: place for place, var in enumerate(jaxpr.invars[: len(owners)])}, reads, owners, found)
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


def _follow(
    jaxpr: Any, held: Mapping[Any, int], reads: Sequence[tuple[int, ...]], owners: Mapping[int, int], found: Trace
) -> None:
    """Follow the leaves through a jaxpr.

    Args:
        jaxpr: the jaxpr.
        held: the variables that hold a leaf, and which.
        reads: the places of each site's leaves.
        owners: the site of each leaf.
        found: what was found.
    """
    known = dict(held)

    def leaf(var: Any) -> int | None:
        return None if isinstance(var, jex.Literal) else known.get(var)

    for eqn in _live(jaxpr):
        inside = [leaf(var) for var in eqn.invars]
        name, primitive = eqn.params.get("name"), eqn.primitive.name
        if isinstance(name, str) and name.startswith(MARK) and primitive in ("jit", "pjit"):
            site = int(name.removeprefix(MARK))
            n = len(reads[site])
            # A derivative of the layer has more inputs or outputs. Not every form in a layer can be differentiated so.
            alone = (len(eqn.invars), len(eqn.outvars)) == (n + 1, 1)
            right = alone and tuple(inside[:n]) == reads[site]
            (found.marked if right else found.elsewhere).add(site)
            found.elsewhere.update(owners[one] for one in (inside[n:] if right else inside) if one is not None)
            continue
        if primitive == "sharding_constraint" and inside[0] is not None:
            known[eqn.outvars[0]] = inside[0]
            continue
        functions = called_functions(eqn)
        passed = {index for _, taken in functions for index in taken}
        found.elsewhere.update(owners[one] for i, one in enumerate(inside) if one is not None and i not in passed)
        for function, taken in functions:
            arguments = {var: one for index, var in taken.items() if (one := inside[index]) is not None}
            _follow(function, arguments, reads, owners, found)
    found.elsewhere.update(owners[one] for one in map(leaf, jaxpr.outvars) if one is not None)


def _live(jaxpr: Any) -> list[Any]:
    """The equations that outputs depend on. Others are left where `nn.scan` looked for what does not change."""
    needed = {var for var in jaxpr.outvars if not isinstance(var, jex.Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            live.append(eqn)
            needed.update(var for var in eqn.invars if not isinstance(var, jex.Literal))
    return live[::-1]


def called_functions(eqn: Any) -> list[tuple[Any, dict[int, Any]]]:
    """The functions that an equation calls; for each, which argument of the equation becomes which of its variables.

    Functions whose arguments are not known to be the equation's get none.
    """
    params, name, n = eqn.params, eqn.primitive.name, len(eqn.invars)
    if name == "cond":
        return [(_bare(one), _taken(range(1, n), _bare(one).invars)) for one in params["branches"]]
    if name == "while":
        condition, body = _bare(params["cond_jaxpr"]), _bare(params["body_jaxpr"])
        a, b = params["cond_nconsts"], params["body_nconsts"]
        return [(condition, _taken(range(a), condition.invars)), (body, _taken(range(a, a + b), body.invars))]
    functions = [_bare(one) for value in params.values() for one in _jaxprs(value)]
    if name in _SAME_ARGUMENTS and len(functions) == 1 and len(functions[0].invars) == n:
        taken = _taken(range(n), functions[0].invars)
        if name == "scan":
            for index in _carry(eqn, functions[0]):
                del taken[index]
        return [(functions[0], taken)]
    return [(function, {}) for function in functions]


def _carry(eqn: Any, body: Any) -> range:
    """The arguments of a scan that it carries: behind the constants, before what it takes apart.

    They are told by the numbers of axes, since JAX 0.10 and 0.12 name them otherwise in the equation's settings.
    """
    apart = sum(out.aval.ndim != own.aval.ndim for out, own in zip(eqn.invars, body.invars, strict=True))
    carried = sum(out.aval.ndim == own.aval.ndim for out, own in zip(eqn.outvars, body.outvars, strict=True))
    end = len(eqn.invars) - apart
    return range(end - carried, end)


def _taken(indices: Sequence[int], variables: Sequence[Any]) -> dict[int, Any]:
    return dict(zip(indices, variables, strict=False))


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, jex.Jaxpr | jex.ClosedJaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [one for item in value for one in _jaxprs(item)]
    return []


def _bare(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jaxpr


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
