"""Trace a model with marks at its layers and without any: what else reads a kernel, and whether the factors are seen.

The factors lie among the model's variables, which a model may count or look through. Then the marks change more of the
trace than the layers themselves.
"""

import itertools
import numbers
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from hut_jax.adapters.following import Trace, called_functions, follow, live_equations

_ATTEMPTS = 64
"""How often sites are halved at most, to find those whose marks disturb a module."""

_COMPARED = 1 << 20
"""The size of the largest constant whose values are compared."""


def trace_marked(
    run: Callable[..., Any], leaves: Sequence[Sequence[Any]], rest: Any, sites: Sequence[int], given: Sequence[int]
) -> Trace:
    """Trace the model with a mark at each of these sites.

    A mark may disturb a module: `nn.WeightNorm` normalises whatever lies beside a kernel, the factors too. Then the
    model is traced for halves of the sites, and halves of these.

    Args:
        run: the model, as a function of the sites to mark, the leaves and the other arrays.
        leaves: for each site its kernel, its bias if there is one, its factors.
        rest: the other arrays.
        sites: those to mark.
        given: for each site the number of its parameters, which come before its factors.
    """
    ends = list(itertools.accumulate(map(len, leaves), initial=0))
    reads = [tuple(range(*pair)) for pair in itertools.pairwise(ends)]
    owners = {place: site for site, read in enumerate(reads) for place in read}
    held = {place for read, n in zip(reads, given, strict=True) for place in read[:n]}

    def trace(marked: Sequence[int]) -> tuple[Trace, Any]:
        """What one trace tells, and an outline of the model but for its marks."""
        kept: Any = None

        def function(leaves, rest):
            nonlocal kept
            found, structure = jax.tree.flatten(run(set(marked), leaves, rest))
            kept = structure, [leaf for leaf in found if not is_array(leaf)]
            return [leaf for leaf in found if is_array(leaf)]

        closed_jaxpr = jax.make_jaxpr(function)(leaves, rest)
        jaxpr, found = closed_jaxpr.jaxpr, Trace()
        variables = jaxpr.invars[: len(owners)]
        follow(jaxpr, {var: place for place, var in enumerate(variables)}, reads, owners, found)
        factors = {var for place, var in enumerate(variables) if place not in held}
        constants = {_described(one) for one in closed_jaxpr.consts}
        return found, (*kept, outline(jaxpr, factors), constants)

    def failure(marked: Sequence[int]) -> str:
        """Trace once. The name of the error, if there is one."""
        try:
            found, seen = trace(marked)
        except Exception as error:  # a module may take the factors for variables of its own
            return type(error).__name__
        if not _equal(seen, plain):
            whole.failed = "the model looks through its variables, and its factors would change what it computes"
        whole.elsewhere -= set(marked) - found.elsewhere
        whole.marked |= found.marked
        whole.one_input |= found.one_input
        return ""

    try:
        whole, plain = trace([])
    except Exception as error:  # the model may need values; or it is wrong, and says so itself when it runs
        return Trace(failed=f"the model cannot be traced ({type(error).__name__})")
    for leaf in plain[1]:
        if not isinstance(leaf, str | bytes | numbers.Number | np.dtype):
            return Trace(failed=f"the model returns an object of type {type(leaf).__name__}, which may hold its kernel")
    if not sites or not failure(sites):
        return whole
    left = [list(sites)]
    for _ in range(_ATTEMPTS):
        if left and len(marked := left.pop()) > 1:
            half = len(marked) // 2
            left += [part for part in (marked[:half], marked[half:]) if failure(part)]
    if why := failure([site for site in sites if whole.here(site)]):
        whole.failed = f"the model cannot be traced with its factors ({why})"
    return whole


def outline(jaxpr: Any, factors: set[Any]) -> Counter:
    """What a jaxpr computes but for its marks: each operation with its numbers and the shapes of its results.

    Args:
        jaxpr: the jaxpr.
        factors: the variables that hold factors. What is computed of these alone is left out.
    """
    own: set[Any] = set(factors)
    found: Counter = Counter()
    for eqn in live_equations(jaxpr):
        variables = [var for var in eqn.invars if not isinstance(var, jex.Literal)]
        if variables and own.issuperset(variables):
            own.update(eqn.outvars)
            continue
        values = tuple(_described(var.val) for var in eqn.invars if isinstance(var, jex.Literal))
        functions = called_functions(eqn)
        for function, taken in functions:
            found += outline(function, {var for index, var in taken.items() if _in(eqn.invars[index], own)})
        if not functions and eqn.primitive.name != "sharding_constraint":
            results = tuple(str(var.aval) for var in eqn.outvars)
            settings = tuple((name, value) for name, value in eqn.params.items() if _is_plain(value))
            found[eqn.primitive.name, values, results, settings] += 1
    return found


def _in(var: Any, variables: set[Any]) -> bool:
    return not isinstance(var, jex.Literal) and var in variables


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, str | numbers.Number)


def _described(value: Any) -> tuple:
    """A constant of a trace: its shape, its dtype and, unless it is large or not known, its values."""
    dtype = jnp.result_type(value)
    hidden = isinstance(value, jax.core.Tracer) or jnp.issubdtype(dtype, jax.dtypes.extended)
    values = None if hidden or np.size(value) > _COMPARED else np.asarray(value).tobytes()
    return np.shape(value), str(dtype), values


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # a model's own type may compare as it likes
        return False


def is_array(leaf: Any) -> bool:
    """Whether a leaf of the arguments is traced. What is not stays as it is, as under `static_argnums`."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)
