"""The activations, by their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from hut_jax.models.activations import ACTIVATIONS, FIXED, LEARNED, activation


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def tanh_gelu(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# By their definitions, which say nothing of JAX.
DEFINITIONS = {
    "gelu": gelu,
    "gelu_10": lambda x: np.minimum(np.maximum(gelu(x), -10), 10),
    "gelu_new": tanh_gelu,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x * sigmoid(x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "sqrtsoftplus": lambda x: np.sqrt(np.log1p(np.exp(x))),
    "laplace": lambda x: (1 + erf((x - 0.707107) / (0.282095 * np.sqrt(2)))) / 2,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "linear": lambda x: x,
}
SAME = {
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu_new"),
    "gelu_python": "gelu",
    "swish": "silu",
}


def test_activations_are_what_their_names_say():
    assert FIXED.keys() == {*DEFINITIONS, *SAME}
    x = np.concatenate([np.linspace(-5, 5, 41), [-12.0, 7.0, 12.0]])
    found = jax.jit(lambda x: {name: activation(x) for name, activation in FIXED.items()})(x.astype(np.float32))
    expected = {name: definition(x) for name, definition in DEFINITIONS.items()}
    for name, values in found.items():
        for other, definition in expected.items():
            close = np.allclose(values, definition, rtol=1e-5, atol=1e-6)
            assert close == (other == SAME.get(name, name)), (name, other)


def log1p_exp(x):
    return np.log1p(np.exp(x))


def xielu(x):
    """With alpha_p 0.3, alpha_n -1.2 and beta 0.7."""
    below = (0.7 + log1p_exp(-1.2)) * (np.expm1(np.minimum(x, 0)) - x)
    return 0.7 * x + np.where(x > 0, log1p_exp(0.3) * x**2, below)


LEARNED_DEFINITIONS = [
    ("prelu", {"slope": [-0.5]}, lambda x: np.where(x > 0, x, -0.5 * x)),
    ("xielu", {"alpha_p": [0.3], "alpha_n": [-1.2], "beta": 0.7, "eps": -1e-6}, xielu),
]


@pytest.mark.parametrize(("name", "params", "definition"), LEARNED_DEFINITIONS, ids=["prelu", "xielu"])
def test_what_an_activation_learns_is_in_its_formula(name, params, definition):
    x = np.linspace(-5, 5, 41, dtype=np.float32)
    module = LEARNED[name]()
    drawn = module.init(jax.random.key(0), x)["params"]
    assert {key: leaf.shape for key, leaf in drawn.items()} == {key: np.shape(value) for key, value in params.items()}
    values = {key: jnp.array(value, jnp.float32) for key, value in params.items()}
    found = jax.jit(lambda params, x: module.apply({"params": params}, x))
    np.testing.assert_allclose(found(values, x), definition(x.astype(float)), rtol=1e-5, atol=1e-5)
    assert not np.allclose(found(drawn, x), definition(x), rtol=1e-2)


def test_every_name_has_its_activation():
    assert len(set(ACTIVATIONS)) == len(ACTIVATIONS)
    (learned,) = activation("prelu").args
    assert type(learned).__name__ == "PReLU"
    assert learned.name == "activation"


def test_in_bf16_a_cpu_rounds_once(monkeypatch):
    x = jnp.linspace(-5, 5, 4001).astype(jnp.bfloat16)
    gelu_on_a_cpu = activation("gelu_new")(x)
    once = FIXED["gelu_new"](x.astype(jnp.float32)).astype(jnp.bfloat16)
    assert gelu_on_a_cpu.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu_on_a_cpu, once)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    elsewhere = activation("gelu_new")(x)
    np.testing.assert_array_equal(elsewhere, FIXED["gelu_new"](x))
    assert (elsewhere != once).any()
