"""Several adapters on one base: hold them by name, switch, turn off, mix within a batch, combine."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from hut_jax.adapters.adapter import Adapter, Params
from hut_jax.adapters.site import Site
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.trees import Path, flatten, show, unflatten
from hut_jax.transforms import Factors, Transform


class Bank:
    """Factor sets of one adapter by name. All have the same shapes, so switching compiles nothing anew.

        bank = Bank(adapter, params)
        bank["formal"] = factors
        step(params, bank["formal"], tokens)                      # by name
        step(params, bank.off, tokens)                            # the base model, to the bit
        adapter.apply(model, params, bank.stacked(), tokens, adapter_ids=bank.ids(["formal", None]))

    Attributes:
        adapter: what the factors belong to.
        off: factors that are the identity.
    """

    def __init__(self, adapter: Adapter, params: Params):
        """An empty bank for these parameters (arrays, or shapes alone).

        Raises:
            UserError: the adapter does not fit them.
        """
        self.adapter = adapter
        self._shapes = jax.eval_shape(lambda: params)
        shapes = {(*site.path, name): shape for site in adapter.sites(params) for name, shape in site.factors.items()}
        self.off = unflatten({path: jnp.zeros(shape, jnp.float32) for path, shape in shapes.items()})
        self._sets: dict[str, PyTree[Array]] = {}

    def __getitem__(self, name: str) -> PyTree[Array]:
        """The factors of this name.

        Raises:
            UserError: there are none.
        """
        if name not in self._sets:
            raise UserError(f"no adapter is called {name!r}; {nearest(str(name), self._sets)}")
        return self._sets[name]

    def __setitem__(self, name: str, factors: PyTree[Array]) -> None:
        """Keep these factors under this name.

        Raises:
            UserError: they are not those of this bank's adapter for its base.
        """
        self.adapter.check(self._shapes, factors)
        # In one dtype, so that none compiles anything anew.
        self._sets[name] = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), factors)

    def __delitem__(self, name: str) -> None:
        """Let go of the factors of this name.

        Raises:
            UserError: there are none.
        """
        self[name]
        del self._sets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def __contains__(self, name: object) -> bool:
        return name in self._sets

    def stacked(self) -> PyTree[Array]:
        """All sets, leaf by leaf on a new first axis: `off` first, then in the order of the names."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), self.off, *self._sets.values())

    def ids(self, names: Sequence[str | None]) -> Int[Array, " batch"]:
        """For each row of a batch the place in `stacked` of the adapter of this name; None is the base alone.

        Raises:
            UserError: a name is none of the bank's.
        """
        places = {name: place for place, name in enumerate(self._sets, start=1)}
        for name in names:
            if name is not None:
                self[name]
        return jnp.array([0 if name is None else places[name] for name in names], jnp.int32)


def combine(
    sets: Sequence[tuple[Adapter, PyTree[Array]]], weights: Sequence[float], params: Params
) -> tuple[Adapter, PyTree[Array]]:
    """One adapter for several of the same transformation and places, each with its weight.

    Deviations are summed by weight. LoRA's and HiRA's are combined exactly, by concatenation: ranks add up, and
    `W0 + sum_i weights[i] dW_i` (for HiRA `W0 ⊙ (1 + sum_i weights[i] A_i B_i)`) is what is computed.

    Args:
        sets: adapters with their factors.
        weights: one a set; any numbers.
        params: the base, or its shapes.

    Raises:
        UserError: there is no set or not one weight each, the sets act on different places, or their
            transformation does not combine.
    """
    if not sets or len(sets) != len(weights):
        raise UserError(f"{len(weights)} weights for {len(sets)} adapters: give each one its own")
    adapter = sets[0][0]
    at = [{site.path: site for site in other.sites(params)} for other, _ in sets]
    for sites in at[1:]:
        for path in sorted(at[0].keys() ^ sites.keys()):
            raise UserError(f"{show(path)} is a site of one adapter and not of another: they do not combine")
    flat = []
    for other, factors in sets:
        other.check(params, factors)
        flat.append(flatten(factors))
    combined: dict[Path, Transform] = {}
    joint_factors: dict[Path, Factors] = {}
    for path, site in at[0].items():
        own = [(sites[path].transform, sites[path].own(one)) for sites, one in zip(at, flat, strict=True)]
        combined[path], joint_factors[path] = site.transform.combine(own, weights)
    joint = _with_transforms(adapter, at[0], combined)
    for site in joint.sites(params):
        joint_factors[site.path] = combined[site.path].under(site.transform, joint_factors[site.path])
    return joint, unflatten({(*path, name): leaf for path, own in joint_factors.items() for name, leaf in own.items()})


def _with_transforms(adapter: Adapter, sites: dict[Path, Site], transforms: dict[Path, Transform]) -> Adapter:
    """The adapter whose sites have these transformations, or the same with B rescaled."""
    if all(new == sites[path].transform for path, new in transforms.items()):
        return adapter
    ranked = {path: cast(Any, new) for path, new in transforms.items() if not sites[path].also}
    widest = max(ranked.values(), key=lambda transform: transform.rank)
    return Adapter(
        widest,
        adapter.targets,
        exclude=adapter.exclude,
        ranks=[(f"^{re.escape(show(path))}$", new.rank) for path, new in ranked.items() if new.rank != widest.rank],
        layout=adapter.layout,
        also_train=adapter.also_train,
    )
