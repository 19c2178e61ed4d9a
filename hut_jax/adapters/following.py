"""Follow kernels through the trace of a model, to find out what reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend import core as jex

from hut_jax.adapters.interceptor import COLLECTION, MARK

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


def follow(
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

    for eqn in live_equations(jaxpr):
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
            follow(function, arguments, reads, owners, found)
    found.elsewhere.update(owners[one] for one in map(leaf, jaxpr.outvars) if one is not None)


def live_equations(jaxpr: Any) -> list[Any]:
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
