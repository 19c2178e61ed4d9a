"""Each factor at its own multiple of the learning rate, with any of optax's optimisers."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from hut_jax.adapters.site import Site
from hut_jax.core.any_tree import names_of
from hut_jax.core.errors import UserError, nearest, one_line
from hut_jax.core.trees import Path, flatten, show, unflatten

Shapes = Mapping[Path, tuple[int, ...]]

NOT_PROPORTIONAL_NAMES = frozenset({"fromage", "polyak_sgd"})
NOT_PROPORTIONAL_STATES = frozenset(
    {
        "COCOBState",
        "DAdaptAdamWState",
        "MadgradState",
        "MechanicState",
        "MomoAdamState",
        "MomoState",
        "SAMState",
        "ScaleByBacktrackingLinesearchState",
        "ScaleByZoomLinesearchState",
        "ScheduleFreeState",
    }
)
"""The optimisers whose updates are not proportional to the learning rate, by name or by the type of their state."""


def multipliers_of(sites: Sequence[Site], also_train: float) -> PyTree[float]:
    """The learning-rate multiplier of each factor, as a tree like the factors'.

    Args:
        sites: those of the adapter.
        also_train: the multiplier of the modules that train in full beside the factors.

    Raises:
        UserError: `also_train` is no finite number, or below 0.
    """
    if isinstance(also_train, bool) or not isinstance(also_train, int | float | np.floating):
        raise UserError(f"also_train={also_train!r} is no number")
    if not math.isfinite(also_train) or also_train < 0:
        raise UserError(f"also_train={also_train!r} is no multiple of the learning rate; give 0 or more")
    return unflatten(
        {
            (*site.path, name): (also_train if site.also else 1.0)
            * site.transform.learning_rate_multipliers.get(name, 1.0)
            for site in sites
            for name in site.factors
        }
    )


def scale_by_multipliers(multipliers: PyTree[float]) -> optax.GradientTransformation:
    """Multiply each factor's update by its learning-rate multiplier, as a link of `optax.chain`.

    Before or after the learning rate is the same. A decay that comes before it is multiplied too.

    Args:
        multipliers: a tree like the factors'. The updates may lack some factors, as under `optax.masked`.
    """
    flat = flatten(multipliers)

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree.map_with_path(lambda path, update: update * flat[_names(path)], updates)

    return optax.stateless(scale)


def scaled_optimizer(
    maker: Callable[..., Any], learning_rate: Any, *args: Any, shapes: Shapes, multipliers: PyTree[float], **kwargs: Any
) -> optax.GradientTransformationExtraArgs:
    """`maker(learning_rate, *args, **kwargs)`, with each factor's updates times its multiplier.

    Its state is that of the maker's own optimiser.

    Args:
        maker: makes an optimiser whose updates are proportional to the learning rate.
        learning_rate: a number or a schedule.
        *args: the maker's own.
        shapes: the shapes of the factors by path.
        multipliers: the learning-rate multiplier of each factor, a tree like the factors'.
        **kwargs: the maker's own.

    Raises:
        UserError: the maker or an argument is wrong. The optimiser raises one, too, if it is given a tree that is not
            the factors', or if its updates are known not to be proportional to the learning rate.
    """
    name = _check_maker(maker)
    _check_learning_rate(learning_rate, name)
    try:
        made = maker(learning_rate, *args, **kwargs)
    except TypeError as error:
        raise UserError(f"{name} was not made: {one_line(error)}") from error
    if not callable(getattr(made, "init", None)) or not callable(getattr(made, "update", None)):
        raise UserError(f"{name} gave no optimiser of optax, but a value of type {type(made).__name__}")
    inner = optax.with_extra_args_support(made)
    scaling = scale_by_multipliers(multipliers)

    def init(factors: Any) -> Any:
        _check_tree(factors, shapes, "the factors of adapter.init")
        state = inner.init(factors)
        _check_state(state, name)
        return state

    def update(updates: Any, state: Any, factors: Any = None, **extra: Any) -> Any:
        _check_tree(updates, shapes, "gradients with respect to the factors")
        updates, state = inner.update(updates, state, factors, **extra)
        return scaling.update(updates, optax.EmptyState())[0], state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_maker(maker: Any) -> str:
    """Check that this may be a maker of optimisers, and return its name."""
    if not callable(maker):
        given = type(maker).__name__
        raise UserError(f"give a function that makes an optimiser, such as optax.adamw; this is of type {given}")
    bare = maker
    while isinstance(bare, functools.partial):
        bare = bare.func
    name = getattr(bare, "__name__", type(bare).__name__)
    if (getattr(bare, "__module__", None) or "").startswith("optax."):
        first = next(iter(inspect.signature(maker).parameters), "")
        if "learning_rate" not in first:
            raise UserError(
                f"the first argument of {name} is {first!r}, no learning rate; give one such as optax.adamw"
            )
    if name in NOT_PROPORTIONAL_NAMES:
        raise _not_proportional(name)
    return name


def _check_learning_rate(rate: Any, name: str) -> None:
    if rate is None:
        raise UserError(f"give a learning rate, a number or a schedule: adapter.optimizer({name}, 2e-2, params=params)")
    if callable(rate):
        return
    numbers = int | float | np.floating | np.ndarray | jax.Array
    if isinstance(rate, bool) or not isinstance(rate, numbers) or jnp.ndim(rate):
        raise UserError(f"the learning rate is of type {type(rate).__name__}; give a number or a schedule")
    if not isinstance(rate, jax.core.Tracer) and not (math.isfinite(rate) and rate >= 0):
        raise UserError(f"the learning rate is {float(rate)}; give 0 or more")


def _check_tree(tree: Any, shapes: Shapes, wanted: str) -> None:
    """Check that each leaf is one of the factors, or several stacked on first axes. Some factors may be missing."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        names = _names(path)
        if names not in shapes:
            raise UserError(
                f"the optimiser takes {wanted}, and {show(names) or 'a single array'} is no factor of this adapter for "
                f"the params= that it was made for; {nearest(show(names), map(show, shapes))}"
            )
        shape, own = jnp.shape(leaf), shapes[names]
        if shape[len(shape) - len(own) :] != own:
            raise UserError(
                f"factor {show(names)} has shape {list(shape)}, and {list(own)} by the params= that the optimiser was "
                "made for: they are of another model, or of another adapter"
            )


def _check_state(state: Any, name: str) -> None:
    def known(node: Any) -> bool:
        return type(node).__name__ in NOT_PROPORTIONAL_STATES

    for node in jax.tree.leaves(state, is_leaf=known):
        if known(node):
            raise _not_proportional(f"{name} (by its {type(node).__name__})")


def _not_proportional(name: str) -> UserError:
    return UserError(
        f"the updates of {name} are not proportional to the learning rate, so they cannot be scaled; "
        'docs/method.md, "Learning rates", makes one optimiser for each multiplier'
    )


def _names(path: Sequence[Any]) -> Path:
    """The names of one of JAX's own paths, but for the last of an array in a box or in a Variable of NNX."""
    if path and getattr(path[-1], "name", None) == "value":
        path = path[:-1]
    return names_of(path)
