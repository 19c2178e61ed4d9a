"""HUT's multiplier of a kernel as each reading of the formula has it, and kernels and factors to try it on."""

import jax.numpy as jnp
import numpy as np

from hut_jax.transforms.spread import GROUPED


def multiplier(spread, a, b):
    """The numbers that multiply the kernel, from the deviations `a: [d, r]` and `b: [r, k]`, entry by entry."""
    (d, r), k = a.shape, b.shape[1]
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    out = np.empty((d, k))
    for i in range(d):
        for j in range(k):
            if spread == "block":
                out[i, j] = (1 + a[i, j // (k // r)]) * (1 + b[i // (d // r), j])
            elif spread == "cyclic":
                out[i, j] = (1 + a[i, j % r]) * (1 + b[i % r, j])
            elif spread == "kronecker":
                out[i, j] = (1 + a[i, j // (k // r)]) * (1 + b[i % r, j])
            elif spread == "sum":
                out[i, j] = (1 + sum(a[i, s] for s in range(r))) * (1 + sum(b[s, j] for s in range(r)))
            elif spread == "product":
                out[i, j] = (1 + a[i, 0]) * (1 + b[0, j]) + sum(a[i, s] * b[s, j] for s in range(1, r))
    return out


def in_jax(spread, a, b):
    """The multiplier by plain indexing, of which JAX makes the gradient."""
    (d, r), k = a.shape, b.shape[1]
    if spread == "sum":
        return (1 + a.sum(1)[:, None]) * (1 + b.sum(0)[None])
    if spread == "product":
        return (1 + a[:, :1]) * (1 + b[:1]) + jnp.matmul(a[:, 1:], b[1:], precision="highest")
    i, j = np.arange(d)[:, None], np.arange(k)[None]
    q = j % r if spread == "cyclic" else j // (k // r)
    p = i // (d // r) if spread == "block" else i % r
    return (1 + a[i, q]) * (1 + b[p, j])


def dense(x, kernel, bias):
    y = jnp.dot(x, kernel, precision="highest")
    return y if bias is None else y + bias


def make(hut, rows, columns, *, bias=True, dtype=jnp.float32, size=0.5):
    """An input, a random kernel and its bias, and random factors. Rows and columns are those of a group, or of W0."""
    unit = hut.rank if hut.spread in GROUPED else 1
    d, k = unit * rows, unit * columns
    random = np.random.default_rng(0)
    x, kernel, vector = (random.standard_normal(shape).astype(dtype) for shape in ((3, d), (d, k), k))
    kernel[0, 0] = vector[0] = -0.0
    shapes = {"a": (d, hut.rank), "b": (hut.rank, k)}
    shapes |= {name: (k,) for name, trains in (("g", hut.scale), ("s", hut.shift)) if trains}
    factors = {name: np.float32(size * random.standard_normal(shape)) for name, shape in shapes.items()}
    return x, kernel, vector if bias else None, factors
