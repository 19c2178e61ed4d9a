"""Several adapters on one base: hold them by name, switch between them, mix them within a batch, combine them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from hut_jax.adapters.adapter import Adapter, Params
from hut_jax.adapters.params import opened_factors
from hut_jax.adapters.site import Site
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.trees import Path, show, unflatten
from hut_jax.transforms import Transform
from hut_jax.transforms.base import Factors


class Bank:
    """Factor sets of one adapter by name. All have the same shapes, so switching recompiles nothing.

        bank = Bank(adapter, params)
        bank["formal"] = factors
        step(params, bank["formal"], tokens)                      # by name
        step(params, bank.off, tokens)                            # the base model, to the bit
        adapter.apply(model, params, bank.stacked(), tokens, adapter_ids=bank.ids(["formal", None]))

    Attributes:
        adapter: what the factors belong to.
        off: factors that leave the base unchanged.
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
        # All sets have one dtype, so that none of them causes a recompilation.
        flat = opened_factors(factors)
        self._sets[name] = unflatten({path: jnp.asarray(leaf, jnp.float32) for path, leaf in flat.items()})

    def __delitem__(self, name: str) -> None:
        """Remove the factors of this name.

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
        """All sets, stacked leaf by leaf on a new first axis: `off`, then the others in the order they were added."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), self.off, *self._sets.values())

    def ids(self, names: Sequence[str | None]) -> Int[Array, " batch"]:
        """The index in `stacked` for each row of a batch, given the name of its adapter. None is the base alone.

        Raises:
            UserError: a name is not in the bank.
        """
        index = {name: i for i, name in enumerate(self._sets, start=1)}
        for name in names:
            if name is not None:
                self[name]
        return jnp.array([0 if name is None else index[name] for name in names], jnp.int32)


def combine(
    sets: Sequence[tuple[Adapter, PyTree[Array]]], weights: Sequence[float], params: Params
) -> tuple[Adapter, PyTree[Array]]:
    """Combine adapters of the same transformation and sites into one, each with its weight.

    Deviations are summed by weight. LoRA's and HiRA's are combined exactly, by concatenation: ranks add up, and the
    joint adapter computes `W0 + sum_i weights[i] dW_i` (HiRA: `W0 ⊙ (1 + sum_i weights[i] A_i B_i)`). HUT's
    reading `product` is combined both ways: deviations in its first term, and all other terms exactly. Ranks may differ
    between sites, so the joint adapter sets the rank of some sites by patterns, in `ranks`.

    Args:
        sets: adapters with their factors.
        weights: one for each set; any numbers.
        params: the base, or its shapes.

    Raises:
        UserError: there is no set, or not one weight for each; or the sets act on different sites, or their
            transformation does not combine.
    """
    if not sets or len(sets) != len(weights):
        raise UserError(f"{len(weights)} weights for {len(sets)} adapters: give each one its own")
    sites_of = [{site.path: site for site in adapter.check(params, factors)} for adapter, factors in sets]
    first, sites = sets[0][0], sites_of[0]
    for others in sites_of[1:]:
        for path in sorted(sites.keys() ^ others.keys()):
            raise UserError(f"{show(path)} is a site of one adapter and not of another: they do not combine")
    if any(dict(adapter.untied) != dict(first.untied) for adapter, _ in sets):
        raise UserError("a head is untied in one adapter and not in another: they do not combine")
    flats = [opened_factors(factors) for _, factors in sets]
    combined: dict[Path, Transform] = {}
    joint_factors: dict[Path, Factors] = {}
    for path, site in sites.items():
        own = [(its[path].transform, its[path].own(flat)) for its, flat in zip(sites_of, flats, strict=True)]
        combined[path], joint_factors[path] = site.transform.combine(own, weights)
    joint = _with_transforms(first, sites, combined)
    for site in joint.sites(params):
        joint_factors[site.path] = combined[site.path].under(site.transform, joint_factors[site.path])
    flat = {(*path, name): leaf for path, own in joint_factors.items() for name, leaf in own.items()}
    return joint, unflatten(flat)


def _with_transforms(adapter: Adapter, sites: Mapping[Path, Site], transforms: Mapping[Path, Transform]) -> Adapter:
    """The adapter whose sites have the ranks of these transformations.

    An adapter has only one transformation, so a site with another rank needs a pattern in `ranks`. Scalings of LoRA may
    differ too. `Transform.under` multiplies such a difference into B.
    """
    if all(new == sites[path].transform for path, new in transforms.items()):
        return adapter
    ranked = {path: cast(Any, new) for path, new in transforms.items() if not sites[path].also}
    widest = max(ranked.values(), key=lambda transform: transform.rank)
    ranks = [(f"^{re.escape(show(path))}$", new.rank) for path, new in ranked.items() if new.rank != widest.rank]
    return replace(adapter, transform=widest, ranks=tuple(ranks))
