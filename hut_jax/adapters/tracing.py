"""Trace a model with marks at its layers and without any: what else reads a kernel, and whether the factors are seen.

The factors lie among the model's variables, which a model may count or look through. Then the marks change more of the
trace than the layers themselves.
"""

import itertools
import numbers
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from hut_jax.adapters.interceptor import COLLECTION, MARK

_ATTEMPTS = 64
"""How often sites are halved at most, to find those whose marks disturb a module."""

_COMPARED = 1 << 20
"""The size of the largest constant whose values are compared."""

_SAME_ARGUMENTS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "scan", "shard_map"}
)
"""Primitives that hand all their arguments, or slices of them, to one function."""

Reads = Sequence[tuple[int, ...]]
"""For each site the places of its leaves: the kernel, the bias if there is one, the factors."""


@dataclass
class Trace:
    """What a trace of the model tells, by the index of the site.

    Attributes:
        marked: the sites whose layer could run adapted.
        elsewhere: the sites of which something else reads a leaf.
        one_input: the sites whose layer is run for several kernels at once on one input.
        failed: why there is no trace, if there is none.
    """

    marked: set[int] = field(default_factory=set)
    elsewhere: set[int] = field(default_factory=set)
    one_input: set[int] = field(default_factory=set)
    failed: str = ""

    def here(self, site: int) -> bool:
        """Whether this site may run adapted in the layer."""
        return not self.failed and site in self.marked and site not in self.elsewhere

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


def trace_marked(
    run: Callable[..., Any], leaves: Sequence[Sequence[Any]], rest: Any, sites: Sequence[int], given: Sequence[int]
) -> Trace:
    """Trace the model with a mark at each of these sites.

    A mark may disturb a module: `nn.WeightNorm` normalises whatever lies beside a kernel, the factors too. Then the
    model is traced for halves of the sites, and halves of these.

    Args:
        run: the model, as a function of the sites to mark, the leaves and the other arrays.
        leaves: for each site its kernel, its bias if there is one, its factors.
        rest: the other arrays; at the end the index of each row's factor set, or None.
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
        _follow(jaxpr, {var: place for place, var in enumerate(variables)}, reads, owners, found)
        factors = {var for place, var in enumerate(variables) if place not in held}
        if rest[-1] is not None:
            factors.add(jaxpr.invars[-1])
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
            site, kernel_axes, axes = map(int, name.removeprefix(MARK).split("_"))
            n = len(reads[site])
            # A derivative of the layer has more inputs or outputs. Not every form in a layer can be differentiated so.
            alone = (len(eqn.invars), len(eqn.outvars)) == (n + 1, 1)
            right = alone and tuple(inside[:n]) == reads[site]
            (found.marked if right else found.elsewhere).add(site)
            if right and eqn.invars[0].aval.ndim - kernel_axes > eqn.invars[-1].aval.ndim - axes:
                found.one_input.add(site)
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


def outline(jaxpr: Any, factors: set[Any]) -> Counter:
    """What a jaxpr computes but for its marks: each operation with its numbers and the shapes of its results.

    Args:
        jaxpr: the jaxpr.
        factors: the variables that hold factors, or their indices. What is computed of these alone is left out.
    """
    own: set[Any] = set(factors)
    found: Counter = Counter()
    for eqn in _live(jaxpr):
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
