"""Small Linen models of every kind that people have, with what an adapter should make of each."""

from dataclasses import dataclass, field
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = array(3, 4)
SEQUENCE = array(2, 5, 4)
IMAGE = array(1, 4, 4, 4)
VIDEO = array(1, 3, 3, 3, 4)
IDS = np.array([[1, 3, 0], [2, 2, 5]], np.int32)
MASK = np.tril(np.ones((2, 1, 5, 5), bool))


@dataclass
class Case:
    """A model, how it is called, and the paths of the kernels that run adapted in their layers."""

    model: nn.Module
    inputs: tuple = (X,)
    here: set = field(default_factory=set)
    targets: Any = "all-linear"
    adapter: dict = field(default_factory=dict)
    call: dict = field(default_factory=dict)
    mutable: tuple = ()
    convert: Any = None
    tolerance: float = 1e-5
    merged: set = field(default_factory=set)
    differentiable: bool = True
    rounded: tuple = ()  # transformations whose zero factors change the last bit: XLA adds the bias within the product


def of(function, **fields):
    """A model whose call is this compact function."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, *args, **kwargs):
            return function(self, *args, **kwargs)

    return Model()


# Subclasses and wrappers of layers.


class Gain(nn.Dense):
    """A gain of its own beside kernel and bias."""

    @nn.compact
    def __call__(self, inputs):
        return super().__call__(inputs) * self.param("gain", nn.initializers.constant(2.0), (self.features,))


class Flag(nn.Dense):
    """A call that takes a flag."""

    @nn.compact
    def __call__(self, inputs, double=False):
        return super().__call__(inputs) * (2 if double else 1)


class Counting(nn.Dense):
    """A collection of its own, in which calls are counted."""

    @nn.compact
    def __call__(self, inputs):
        calls = self.variable("stats", "calls", lambda: jnp.zeros(()))
        calls.value = calls.value + 1
        return super().__call__(inputs) * calls.value


class Named(nn.Dense):
    """Another name for the input."""

    @nn.compact
    def __call__(self, x):
        return super().__call__(x)


class Standardised(nn.Dense):
    """A kernel that is standardised before it is used."""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        return x @ ((kernel - kernel.mean(0)) / (kernel.std(0) + 1e-2)) + self.param(
            "bias", self.bias_init, (self.features,)
        )


class Masked(nn.Module):
    """A layer that is pruned by a mask in a collection of its own, and has a dropout of its own."""

    @nn.compact
    def __call__(self, x, mask=None, deterministic=True):
        kernel = self.param("kernel", nn.initializers.normal(), (x.shape[-1], 6))
        pruned = self.variable("masks", "kernel", lambda: jnp.ones(kernel.shape))
        y = x @ (kernel * pruned.value) + self.param("bias", nn.initializers.zeros, (6,))
        y = y if mask is None else jnp.where(mask, y, 0)
        return nn.Dropout(0.5)(y, deterministic=deterministic)


class Turned(nn.Module):
    """A kernel stored `[out, in]`, as GPT-2's in transformers."""

    features: int

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.normal(), (self.features, x.shape[-1]))
        return x @ kernel.T + self.param("bias", nn.initializers.zeros, (self.features,))


class Leaf(nn.Module):
    """A parameter of any name, used by an einsum."""

    shape: tuple
    einsum: str
    name_: str = "w"

    @nn.compact
    def __call__(self, x):
        return jnp.einsum(self.einsum, x, self.param(self.name_, nn.initializers.normal(), self.shape))


class Doubled(nn.Module):
    """A wrapper in the scope of the layer that it holds."""

    inner: nn.Module

    def setup(self):
        nn.share_scope(self, self.inner)

    def __call__(self, x):
        return self.inner(x) * 2


class OwnLoRA(nn.Module):
    """A LoRA of the user's, with its parameters in the layer's scope."""

    base: nn.Module

    def setup(self):
        nn.share_scope(self, self.base)

    @nn.compact
    def __call__(self, x):
        a = self.param("A", nn.initializers.normal(), (x.shape[-1], 2))
        return self.base(x) + x @ a @ self.param("B", nn.initializers.normal(), (2, self.base.features))


class TiedAutoencoder(nn.Module):
    def setup(self):
        self.enc = nn.Dense(6)

    def __call__(self, x):
        return self.enc(x) @ self.enc.variables["params"]["kernel"].T


class TiedHead(nn.Module):
    def setup(self):
        self.table = nn.Embed(8, 4)
        self.mlp = nn.Dense(4)

    def __call__(self, ids):
        return self.table.attend(self.mlp(self.table(ids)))


class InDicts(nn.Module):
    def setup(self):
        self.blocks = [{"a": nn.Dense(4), "b": nn.Dense(4)} for _ in range(2)]

    def __call__(self, x):
        for block in self.blocks:
            x = nn.relu(block["a"](x) + block["b"](x))
        return x


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(4, name="down")(nn.gelu(nn.Dense(6, name="up")(x))), None


class Energy(nn.Module):
    """A model that differentiates itself."""

    def setup(self):
        self.hidden, self.out = nn.Dense(6), nn.Dense(2)

    def __call__(self, x):
        return jax.grad(lambda x: jnp.tanh(self.out(jnp.tanh(self.hidden(x)))).sum())(x)


class OwnGradient(nn.Module):
    """A layer with a backward pass of its own, which knows of the parameters alone."""

    @nn.compact
    def __call__(self, x):
        def forward(module, x):
            return nn.vjp(lambda module, x: module(x), module, x)

        def backward(pull, gradient):
            params, x = pull(gradient)
            return params, 2 * x

        run = nn.custom_vjp(lambda module, x: module(x), forward_fn=forward, backward_fn=backward)
        return run(nn.Dense(6, name="d"), x)


class Penalised(nn.Module):
    """A model that returns the size of its kernel, too."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(6, name="d")
        return dense(x), (dense(x) + 1).mean() * (dense.variables["params"]["kernel"] ** 2).sum()


class Switched(nn.Module):
    def setup(self):
        self.a, self.b = nn.Dense(4), nn.Dense(4)

    def __call__(self, x, index):
        if self.is_initializing():
            self.a(x), self.b(x)
        return nn.switch(index, [lambda module, x: module.a(x), lambda module, x: module.b(x)], self, x)


class Forward(nn.Module):
    """A model with a derivative along its input."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(6, name="d")
        dense(x)
        return jax.jvp(lambda x: jnp.tanh(dense(x)), (x,), (x,))


class Intercepted(nn.Module):
    """A model that intercepts its own layers."""

    @nn.compact
    def __call__(self, x):
        def doubled(next_fun, args, kwargs, context):
            return next_fun(*args, **kwargs) * (2 if context.method_name == "__call__" else 1)

        with nn.intercept_methods(doubled):
            return nn.Dense(6, name="d")(x)


class Box(flax.struct.PyTreeNode, nn.meta.AxisMetadata):
    """A box of the user's own."""

    value: Any
    note: str = flax.struct.field(pytree_node=False, default="")

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


def boxed(box):
    def init(*args):
        return box(nn.initializers.lecun_normal()(*args))

    return init


def loop(module, x):
    dense = nn.Dense(4, name="d")
    dense(x)

    def body(module, carry):
        return carry[0] + 1, jnp.tanh(dense(carry[1]))

    return nn.while_loop(lambda module, carry: carry[0] < 3, body, module, (0, x))[1]


def cond(module, x):
    dense = nn.Dense(4, name="d")
    dense(x)
    return nn.cond(x.sum() > 0, lambda dense, x: dense(x), lambda dense, x: dense(-x), dense, x)


def scan(**axes):
    return nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=2)


def casting(module, x):
    def low(variables):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), variables)

    return nn.map_variables(nn.Dense, "params", low, init=module.is_initializing())(6, name="d")(x)


def rounded(*arrays, dtype=None):
    return [None if one is None else jnp.round(4 * one) / 4 for one in arrays]


def attention(**fields):
    fields = {"num_heads": 2, "qkv_features": 4, "deterministic": True, **fields}
    return of(lambda self, x, mask=None: nn.MultiHeadDotProductAttention(**fields)(x, mask=mask))


MHA = {("MultiHeadDotProductAttention_0", name) for name in ("query", "key", "value", "out")}


def halves(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


def fp8(module, x):
    return nn.Dense(16, name="out")(nn.Dense(16, name="low", dot_general_cls=nn.Fp8DirectDotGeneralOp)(x))


CASES = {
    # Flax's own layers
    "one dense": Case(nn.Dense(6), here={()}),
    "dense layers": Case(nn.Sequential([nn.Dense(6), nn.relu, nn.Dense(2)]), here={("layers_0",), ("layers_2",)}),
    "no bias": Case(of(lambda self, x: nn.Dense(6, use_bias=False, name="d")(x)), here={("d",)}),
    "axes": Case(
        of(lambda self, x: nn.DenseGeneral(6, axis=(-1, 1), name="j")(nn.DenseGeneral((2, 3), name="s")(x))),
        (array(2, 6, 4),),
        here={("s",), ("j",)},
    ),
    "batch dims": Case(
        of(lambda self, x: nn.DenseGeneral(6, batch_dims=(0,), name="d")(x)), (SEQUENCE,), merged={("d",)}
    ),
    "einsum": Case(of(lambda self, x: nn.Einsum((4, 2, 3), "bld,dhk->blhk", name="e")(x)), (SEQUENCE,), here={("e",)}),
    "einsum by call": Case(
        of(lambda self, x: nn.Einsum((2, 4, 3), use_bias=False, name="e")(x, "...d,hdk->...hk")),
        (SEQUENCE,),
        here={("e",)},
        adapter={"layout": {"e": "oio"}},
    ),
    "einsum turned": Case(
        of(lambda self, x: nn.Einsum((4, 2, 3), "bld,dhk->bhlk", name="e")(x)), (SEQUENCE,), merged={("e",)}
    ),
    "convolutions": Case(
        of(lambda self, x: nn.Conv(4, (3,), use_bias=False)(nn.Conv(4, (3,), name="c")(x))),
        (SEQUENCE,),
        merged={("c",), ("Conv_0",)},
    ),
    "grouped convolution": Case(
        of(lambda self, x: nn.Conv(6, (3, 3), feature_group_count=2, name="c")(x)), (IMAGE,), merged={("c",)}
    ),
    "convolution in space": Case(of(lambda self, x: nn.Conv(4, (2, 2, 2), name="c")(x)), (VIDEO,), merged={("c",)}),
    "transposed convolution": Case(
        of(lambda self, x: nn.ConvTranspose(6, (2,), transpose_kernel=True, name="t")(nn.ConvTranspose(4, (2,))(x))),
        (SEQUENCE,),
        merged={("t",), ("ConvTranspose_0",)},
    ),
    "embedding": Case(
        of(lambda self, ids: nn.Dense(6, name="d")(nn.Embed(8, 4, name="table")(ids))),
        (IDS,),
        here={("d",)},
        targets="table|d",
        merged={("table", "embedding")},
    ),
    "tied head": Case(TiedHead(), (IDS,), here={("mlp",)}, targets=["table", "mlp"], merged={("table", "embedding")}),
    # attention, recurrence
    "attention": Case(attention(), (SEQUENCE,), here=MHA, call={"mask": MASK}),
    "attention without bias": Case(attention(use_bias=False), (SEQUENCE,), here=MHA),
    "attention with norms": Case(attention(normalize_qk=True, dtype=jnp.float32), (SEQUENCE,), here=MHA),
    "decoding attention": Case(
        of(lambda self, x: nn.MultiHeadDotProductAttention(2, decode=True, deterministic=True, name="m")(x)),
        (SEQUENCE[:, :1],),
        here={("m", name) for name in ("query", "key", "value", "out")},
        mutable=("cache",),
    ),
    "LSTM": Case(
        of(lambda self, x: nn.RNN(nn.LSTMCell(4), name="r")(x)),
        (SEQUENCE,),
        merged={("LSTMCell_0", side + gate) for side in "ih" for gate in "ifgo"},
    ),
    "optimised LSTM": Case(
        of(lambda self, x: nn.RNN(nn.OptimizedLSTMCell(4), name="r")(x)),
        (SEQUENCE,),
        merged={("OptimizedLSTMCell_0", side + gate) for side in "ih" for gate in "ifgo"},
    ),
    "GRU that carries the adapter": Case(
        of(lambda self, x: nn.RNN(nn.GRUCell(4), variable_broadcast=["params", "adapter"], name="r")(x)),
        (SEQUENCE,),
        here={("GRUCell_0", side + gate) for side in "ih" for gate in "rzn"},
    ),
    # norms
    "weight norm": Case(
        of(lambda self, x: nn.Dense(2, name="last")(nn.WeightNorm(nn.Dense(6, name="normed"))(x))),
        here={("last",)},
        merged={("normed",)},
    ),
    "spectral norm": Case(
        of(lambda self, x: nn.SpectralNorm(nn.Dense(6, name="normed"))(x, update_stats=True)),
        merged={("normed",)},
        mutable=("batch_stats",),
    ),
    "batch norm": Case(
        of(lambda self, x: nn.BatchNorm(use_running_average=False)(nn.Dense(6, name="d")(x))),
        here={("d",)},
        mutable=("batch_stats",),
    ),
    # classes of one's own
    "a parameter of its own": Case(of(lambda self, x: Gain(6, name="d")(x)), merged={("d",)}),
    "a flag": Case(of(lambda self, x: Flag(6, name="d")(x, True)), merged={("d",)}),
    "a flag by keyword": Case(of(lambda self, x: Flag(6, name="d")(x, double=True)), merged={("d",)}),
    "a collection of its own": Case(of(lambda self, x: Counting(6, name="d")(x)), merged={("d",)}, mutable=("stats",)),
    "another name for the input": Case(of(lambda self, x: Named(6, name="d")(x=x)), merged={("d",)}),
    "a standardised kernel": Case(of(lambda self, x: Standardised(6, name="d")(x)), merged={("d",)}, tolerance=1e-4),
    "masks and dropout": Case(
        of(lambda self, x, **kw: Masked(name="d")(x, **kw)),
        merged={("d",)},
        call={"mask": X[:, :1] > 0, "deterministic": False, "rngs": {"dropout": jax.random.key(3)}},
    ),
    "a kernel stored transposed": Case(
        of(lambda self, x: Turned(4, name="square")(Turned(6, name="down")(nn.Dense(8, name="up")(x))[:, :4])),
        here={("up",)},
        merged={("square",), ("down",)},
    ),
    "a transposed square": Case(
        of(lambda self, x: Turned(4, name="d")(x)), adapter={"layout": {"d": "oi"}}, merged={("d",)}
    ),
    "leaves of gemma's kind": Case(
        of(
            lambda self, x: Leaf((2, 3, 4), "blnh,nhd->bld", name="attn_vec_einsum")(
                Leaf((2, 4, 3), "bld,ndh->blnh", name="q_einsum")(x)
            )
        ),
        (SEQUENCE,),
        merged={("q_einsum", "w"), ("attn_vec_einsum", "w")},
    ),
    "experts": Case(
        of(lambda self, x: Leaf((3, 4, 6), "bd,edk->bek", "wi", name="moe")(x)),
        targets="moe/wi",
        adapter={"layout": {"wi": "lio"}},
        merged={("moe", "wi")},
    ),
    "stored stack last": Case(
        of(lambda self, x: Leaf((4, 6, 2), "bd,dke->bek", "table", name="d")(x)),
        targets="d/table",
        adapter={"layout": {"table": "iol"}},
        merged={("d", "table")},
    ),
    # sharing
    "share_scope": Case(
        of(lambda self, x: nn.Dense(2, name="out")(Doubled(nn.Dense(6, name="up"))(x))),
        here={("out",), ("up",)},
    ),
    "a LoRA of one's own": Case(
        of(lambda self, x: OwnLoRA(nn.Dense(6, name="d"), name="o")(x)), targets="d$", here={("d",)}
    ),
    "called twice": Case(
        of(lambda self, x: (lambda dense: dense(nn.relu(dense(x))))(nn.Dense(4, name="d"))), here={("d",)}
    ),
    "tied autoencoder": Case(TiedAutoencoder(), merged={("enc",)}),
    "layers in dicts": Case(InDicts(), here={(f"blocks_{i}_{name}",) for i in range(2) for name in "ab"}),
    # lifted transformations
    "remat": Case(of(lambda self, x: nn.remat(Block)(name="b")(x)[0]), here={("b", "up"), ("b", "down")}),
    "jit": Case(of(lambda self, x: nn.jit(Block)(name="b")(x)[0]), here={("b", "up"), ("b", "down")}),
    "scan": Case(
        of(lambda self, x: scan(params=0, adapter=0)(name="b")(x, None)[0]), here={("b", "up"), ("b", "down")}
    ),
    "scan without an axis": Case(
        of(lambda self, x: scan(params=0)(name="b")(x, None)[0]), merged={("b", "up"), ("b", "down")}
    ),
    "scan over the second axis": Case(
        of(lambda self, x: scan(params=1, adapter=0)(name="b")(x, None)[0]),
        adapter={"layout": {"b/": "ilo"}},
        merged={("b", "up"), ("b", "down")},
    ),
    "shared by vmap": Case(
        of(lambda self, x: nn.vmap(nn.Dense, variable_axes={"params": None}, split_rngs={"params": False})(6)(x)),
        merged={("VmapDense_0",)},
    ),
    "ensemble": Case(
        nn.vmap(
            nn.Dense, in_axes=None, variable_axes={"params": 0, "adapter": 0}, split_rngs={"params": True}, axis_size=3
        )(6),
        here={()},
    ),
    "cond": Case(of(cond), here={("d",)}),
    "while loop": Case(of(loop), here={("d",)}, differentiable=False),
    "a cast by map_variables": Case(of(casting), merged={("d",)}, tolerance=2e-2),
    "a gradient within": Case(Energy(), merged={("hidden",), ("out",)}, tolerance=1e-4),
    "a backward pass of its own": Case(OwnGradient(), merged={("d",)}),
    "an interceptor of its own": Case(Intercepted(), merged={("d",)}),
    "a penalty on a kernel": Case(Penalised(), merged={("d",)}, tolerance=1e-4),
    "a derivative along the input": Case(Forward(), merged={("d",)}, tolerance=1e-4),
    "switch": Case(Switched(), (X, np.int32(1)), here={("a",), ("b",)}),
    "remat and scan": Case(
        of(lambda self, x: nn.remat_scan(nn.Dense, lengths=(2, 2))(4)(x)),
        here={("Remat_scanDense_0",)},
        rounded=("dora",),
    ),
    "mapped over a batch": Case(
        of(
            lambda self, x: nn.vmap(
                nn.Dense, variable_axes={"params": 0, "adapter": 0}, split_rngs={"params": True}, in_axes=0
            )(6)(x)
        ),
        here={("VmapDense_0",)},
    ),
    "all variables mapped": Case(
        of(
            lambda self, x: nn.map_variables(
                nn.Dense, True, lambda own: jax.tree.map(jnp.tanh, own), init=self.is_initializing()
            )(6, name="d")(x)
        ),
        merged={("d",)},
    ),
    "a kernel for each place": Case(
        of(lambda self, x: nn.ConvLocal(4, (2,), name="c")(x)), (SEQUENCE,), merged={("c",)}
    ),
    "rounded operands": Case(
        of(lambda self, x: nn.Dense(6, promote_dtype=rounded, name="d")(x)), merged={("d",)}, differentiable=False
    ),
    # boxes and dtypes
    "partitioned": Case(
        of(
            lambda self, x: nn.Dense(
                6, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), ("a", "b")), name="d"
            )(x)
        ),
        here={("d",)},
    ),
    "logically partitioned": Case(
        of(
            lambda self, x: nn.DenseGeneral(
                (2, 3),
                kernel_init=nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("a", "b", "c")),
                name="d",
            )(x)
        ),
        here={("d",)},
    ),
    "a box of one's own": Case(of(lambda self, x: nn.Dense(6, kernel_init=boxed(Box), name="d")(x)), here={("d",)}),
    "frozen": Case(of(lambda self, x: nn.Dense(6, name="d")(x)), here={("d",)}, convert=flax.core.freeze),
    "fp8": Case(of(fp8), (array(16, 16),), here={("out",)}, merged={("low",)}, tolerance=1e-3),
    "bf16": Case(
        of(lambda self, x: nn.Dense(6, name="d")(x)), (X.astype(jnp.bfloat16),), {("d",)}, convert=halves, tolerance=0.1
    ),
    "whole numbers": Case(of(lambda self, x: nn.Dense(6, name="d")(x)), (IDS[:, :2],), here={("d",)}),
    "inputs of less precision": Case(
        of(lambda self, x: nn.Dense(6, name="d")(x)), (X.astype(jnp.bfloat16),), here={("d",)}
    ),
}
