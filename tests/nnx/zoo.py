"""Modules of NNX as data: each with an input and the patterns of its targets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Kind(NamedTuple):
    """A module: how it is made, its inputs, its targets, and the method that is called."""

    make: Callable[[nnx.Rngs], Any]
    inputs: tuple[Any, ...]
    targets: Any = "all-linear"
    method: str = "__call__"


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


TOKENS = np.array([[1, 4, 2], [0, 3, 3]])
X = floats(2, 3, 4)


class Tied(nnx.Module):
    """An embedding that is the head, too, and a layer that is called twice."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(6, 4, rngs=rngs)
        self.layer = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.embed.attend(self.layer(self.layer(x)))


class TiedKernels(nnx.Module):
    """Two layers with one kernel, which a third module reads transposed."""

    def __init__(self, rngs):
        self.one = nnx.Linear(4, 4, rngs=rngs)
        self.two = nnx.Linear(4, 4, rngs=rngs)
        self.two.kernel = self.one.kernel

    def __call__(self, x):
        return self.two(nnx.tanh(self.one(x))) @ self.one.kernel.T


class Flagged(nnx.Linear):
    """A layer of its own with an argument, a parameter and a method more."""

    def __init__(self, *args, rngs, **kwargs):
        super().__init__(*args, rngs=rngs, **kwargs)
        self.gain = nnx.Param(jnp.full(4, 1.5))

    def __call__(self, x, *, twice=False):
        return super().__call__(x) * self.gain[...] * (2 if twice else 1)


class UsesFlagged(nnx.Module):
    def __init__(self, rngs):
        self.layer = Flagged(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.layer(x, twice=True) + self.layer(x)


class Bare(nnx.Module):
    """Kernels of its own, in attributes, lists and dicts."""

    def __init__(self, rngs):
        key = rngs.params
        self.w = nnx.Param(jax.random.normal(key(), (4, 6)))
        self.several = nnx.List([nnx.Param(jax.random.normal(key(), (6, 6))) for _ in range(2)])
        self.named = nnx.Dict(up=nnx.Param(jax.random.normal(key(), (6, 4))))
        self.plain = nnx.data({"w": nnx.Param(jax.random.normal(key(), (4, 4)))})

    def __call__(self, x):
        x = x @ self.w[...]
        for w in self.several:
            x = jnp.tanh(x @ w)
        return x @ self.named["up"] @ self.plain["w"]


class Experts(nnx.Module):
    """A matrix for each expert."""

    def __init__(self, rngs):
        self.experts = nnx.Einsum("ebtd,edk->ebtk", (2, 4, 6), (2, 6), rngs=rngs)

    def __call__(self, x):
        return self.experts(jnp.stack([x, -x]))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.down = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class Scanned(nnx.Module):
    """Blocks stacked by vmap and run by a scan."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs):
            return Block(rngs)

        self.layers = stacked(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return layer(x)

        return run(x, self.layers)


class Ensemble(nnx.Module):
    """Members of an ensemble, side by side."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs):
            return nnx.LinearGeneral((3, 4), (2, 3), axis=(-2, -1), use_bias=False, rngs=rngs)

        self.members = stacked(rngs)

    def __call__(self, x):
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x)


class Transformed(nnx.Module):
    """A layer under remat, one under jit, one in a branch, and one that is taken apart and put together."""

    def __init__(self, rngs):
        self.one, self.two, self.three = (nnx.Linear(4, 4, rngs=rngs) for _ in range(3))

    def __call__(self, x):
        x = nnx.remat(lambda layer, x: nnx.tanh(layer(x)))(self.one, x)
        x = nnx.jit(lambda layer, x: layer(x))(self.two, x)
        x = nnx.cond(jnp.sum(x) > 0, lambda layer, x: layer(x), lambda layer, x: 2 * layer(x), self.three, x)
        graph, state = nnx.split(self.one)
        return nnx.merge(graph, state)(x)


class Stateful(nnx.Module):
    """Batch statistics, dropout and convolutions."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 6, (3,), feature_group_count=2, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.ConvTranspose(6, 4, (3,), transpose_kernel=True, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(self.norm(self.conv(x))))


class LinenBlock(nn.Module):
    training: bool = False

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(6, name="up")(x)
        y = nn.BatchNorm(use_running_average=not self.training, name="norm")(y)
        return x + nn.Dense(4, name="down")(nn.gelu(y))


def bridged(rngs, **settings):
    return nnx.bridge.lazy_init(nnx.bridge.ToNNX(LinenBlock(**settings), rngs=rngs), X)


class AroundBridged(nnx.Module):
    """A Linen model as a part of one of NNX, which updates its statistics."""

    def __init__(self, rngs):
        self.inner = bridged(rngs, training=True)
        self.head = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.inner(x, mutable=["batch_stats"]))


def attention(rngs, heads=2, **settings):
    return nnx.MultiHeadAttention(num_heads=heads, in_features=4, decode=False, rngs=rngs, **settings)


def recurrent(cell):
    return lambda rngs: nnx.RNN(cell(4, 6, rngs=rngs), rngs=rngs)


KINDS: dict[str, Kind] = {
    "linear": Kind(lambda rngs: nnx.Linear(4, 6, rngs=rngs), (X,)),
    "linear in bf16": Kind(lambda rngs: nnx.Linear(4, 6, dtype=jnp.bfloat16, use_bias=False, rngs=rngs), (X,)),
    "own product": Kind(
        lambda rngs: nnx.Linear(4, 6, dot_general=lambda *a, **k: jnp.sin(jax.lax.dot_general(*a, **k)), rngs=rngs),
        (X,),
    ),
    "general": Kind(
        lambda rngs: nnx.LinearGeneral((3, 4), (2, 3), axis=(1, -1), use_bias=False, rngs=rngs), (floats(2, 3, 5, 4),)
    ),
    "general with batch": Kind(
        lambda rngs: nnx.LinearGeneral(4, 6, axis=-1, batch_axis={0: 2}, use_bias=False, rngs=rngs), (X,)
    ),
    "einsum": Kind(lambda rngs: nnx.Einsum("...ta,hab->...thb", (2, 4, 6), (2, 6), rngs=rngs), (X,)),
    "einsum, stored transposed": Kind(lambda rngs: nnx.Einsum("btd,od->bto", (6, 4), (6,), rngs=rngs), (X,)),
    "einsum over heads": Kind(lambda rngs: nnx.Einsum("bthd,hdo->bto", (2, 2, 4), rngs=rngs), (floats(2, 3, 2, 2),)),
    "experts": Kind(Experts, (X,)),
    "conv of three axes": Kind(lambda rngs: nnx.Conv(2, 4, (2, 1, 2), rngs=rngs), (floats(1, 3, 2, 3, 2),)),
    "masked conv": Kind(lambda rngs: nnx.Conv(4, 4, (2,), mask=jnp.ones((2, 4, 4)).at[0].set(0), rngs=rngs), (X,)),
    "conv transposed": Kind(lambda rngs: nnx.ConvTranspose(4, 6, (2,), strides=2, rngs=rngs), (X,)),
    "tied embedding": Kind(Tied, (TOKENS,), ["embed", "layer"]),
    "tied kernels": Kind(TiedKernels, (X,)),
    "subclass": Kind(UsesFlagged, (X,)),
    "parameters of its own": Kind(Bare, (X,), ["w$", "several", "up$"]),
    "attention": Kind(attention, (X,)),
    "attention, normalised": Kind(lambda rngs: attention(rngs, heads=1, normalize_qk=True), (X,)),
    "weight norm": Kind(lambda rngs: nnx.WeightNorm(nnx.Linear(4, 6, rngs=rngs), rngs=rngs), (X,)),
    "spectral norm": Kind(lambda rngs: nnx.SpectralNorm(nnx.Linear(4, 6, rngs=rngs), rngs=rngs), (X,)),
    "lstm": Kind(recurrent(nnx.OptimizedLSTMCell), (X,)),
    "gru": Kind(recurrent(nnx.GRUCell), (X,)),
    "scanned": Kind(Scanned, (X,)),
    "ensemble": Kind(Ensemble, (floats(2, 3, 4),)),
    "transformed": Kind(Transformed, (X,)),
    "stateful": Kind(Stateful, (X,)),
    "flax's own LoRA": Kind(lambda rngs: nnx.LoRALinear(4, 6, lora_rank=2, rngs=rngs), (X,), "kernel"),
    "sequence": Kind(
        lambda rngs: nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.relu, Flagged(6, 4, rngs=rngs)), (X,)
    ),
    "bridged": Kind(bridged, (X,)),
    "around bridged": Kind(AroundBridged, (X,)),
    "method": Kind(lambda rngs: nnx.Embed(6, 4, rngs=rngs), (X,), "embedding", "attend"),
}
