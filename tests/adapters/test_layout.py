"""How a kernel's axes are read, by its shape, its bias and the names around it."""

import numpy as np
import pytest

from hut_jax import HUT, Adapter, LoRA, UserError
from hut_jax.adapters.layout import Layout


def tree(**shapes):
    """Parameters of these shapes; "a__b" is b in a."""
    params = {}
    for name, shape in shapes.items():
        *modules, leaf = name.split("__")
        inner = params
        for module in modules:
            inner = inner.setdefault(module, {})
        inner[leaf] = np.ones(shape, np.float32)
    return params


def read(params, targets="all-linear", **fields):
    return {"/".join(site.path): site.layout.letters for site in Adapter(LoRA(rank=1), targets, **fields).sites(params)}


ATTENTION = {"query__kernel": (8, 2, 4), "value__kernel": (8, 2, 4), "out__kernel": (2, 4, 8)}


@pytest.mark.parametrize(
    ("shapes", "layouts"),
    [
        ({"d__kernel": (4, 6)}, {"d": "io"}),
        ({"d__kernel": (4, 6), "d__bias": (6,)}, {"d": "io"}),
        ({"d__kernel": (6, 4), "d__bias": (6,)}, {"d": "oi"}),
        ({"d__kernel": (2, 4, 6), "d__bias": (2, 6)}, {"d": "lio"}),
        ({"d__kernel": (4, 2, 3), "d__bias": (2, 3)}, {"d": "ioo"}),
        ({"d__kernel": (2, 3, 4), "d__bias": (4,)}, {"d": "iio"}),
        ({"d__kernel": (2, 3, 4), "d__bias": (3,)}, {"d": "ioi"}),
        ({"t__kernel": (3, 6, 4), "t__bias": (6,)}, {"t": "ioi"}),
        (ATTENTION, {"query": "ioo", "value": "ioo", "out": "iio"}),
        (
            {name: (3, *shape) for name, shape in ATTENTION.items()},
            {"query": "lioo", "value": "lioo", "out": "liio"},
        ),
        ({"Conv_0__kernel": (3, 3, 4, 6)}, {"Conv_0": "iiio"}),
        ({"experts__kernel": (8, 4, 6)}, {"experts": "lio"}),
        (
            {"q_einsum__w": (2, 8, 4), "kv_einsum__w": (2, 1, 8, 4), "attn_vec_einsum__w": (2, 4, 8)},
            {"q_einsum/w": "oio", "kv_einsum/w": "loio", "attn_vec_einsum/w": "iio"},
        ),
        ({"mlp__gating_einsum": (2, 16, 8), "mlp__linear": (16, 8)}, {"mlp/gating_einsum": "loi", "mlp/linear": "io"}),
        ({"mlp__gating_einsum": (2, 8, 16), "mlp__linear": (16, 8)}, {"mlp/gating_einsum": "lio", "mlp/linear": "io"}),
    ],
    ids=lambda value: "-".join(value),
)
def test_what_tells_the_axes(shapes, layouts):
    assert read(tree(**shapes)) == layouts


def test_a_square_kernel_is_read_as_those_near_it_whose_bias_tells():
    turned = {"block__fused__kernel": (12, 4), "block__fused__bias": (12,)}
    square = {"block__proj__kernel": (4, 4), "block__proj__bias": (4,)}
    assert read(tree(**turned, **square))["block/proj"] == "oi"
    assert read(tree(**square))["block/proj"] == "io"
    straight = {"block__up__kernel": (4, 8), "block__up__bias": (8,)}
    assert read(tree(**turned, **square, **straight))["block/proj"] == "io"
    far = {"head__out__kernel": (4, 3), "head__out__bias": (3,)}
    assert read(tree(**turned, **square, **far)) == {"block/fused": "oi", "block/proj": "oi", "head/out": "io"}


def test_axes_that_nothing_tells_must_be_said():
    with pytest.raises(UserError, match="d: cannot tell"):
        read(tree(d__kernel=(2, 3, 4), d__bias=(2, 3)))  # "ooi" or "loi"
    params = tree(d__kernel=(4, 2, 3))
    with pytest.raises(UserError, match=r"d: cannot tell which axes of a kernel of shape \[4, 2, 3\].*layout="):
        read(params)
    assert read(params, layout={"d": "oil"}) == {"d": "oil"}
    for wrong in ("io", "oo", "iii", "", "ix"):
        with pytest.raises(UserError, match=r"layout"):
            read(params, layout={"d": wrong})


@pytest.mark.parametrize("letters", ["io", "oi", "lio", "oil", "loi", "iolo", "liooi"])
def test_a_kernel_becomes_matrices_and_is_built_again(letters):
    shape = tuple(range(2, 2 + len(letters)))
    kernel = np.random.default_rng(0).standard_normal(shape)
    layout = Layout(letters, shape)
    matrix = layout.matrix(kernel)
    assert matrix.shape == (*layout.stack, layout.d, layout.k)
    np.testing.assert_array_equal(layout.kernel(matrix), kernel)
    # One output of one layer is what an einsum over the axes says.
    names = "abcdefg"[: len(letters)]
    inputs = "".join(name for name, letter in zip(names, letters, strict=True) if letter == "i")
    rest = "".join(name for key in "lo" for name, letter in zip(names, letters, strict=True) if letter == key)
    x = np.random.default_rng(1).standard_normal(layout.inputs)
    expected = np.einsum(f"{inputs},{names}->{rest}", x, kernel)
    np.testing.assert_allclose((x.reshape(-1) @ matrix).reshape(expected.shape), expected)


@pytest.mark.parametrize(("letters", "bias"), [("lio", (2, 4)), ("oli", (2, 3)), ("oli", (3, 2)), ("iol", (3, 4))])
def test_a_bias_becomes_vectors_and_is_built_again(letters, bias):
    layout = Layout(letters, (2, 3, 4))
    vector = np.arange(np.prod(bias)).reshape(bias)
    made = layout.vector(vector)
    assert made.shape == (*layout.stack, layout.k)
    np.testing.assert_array_equal(layout.bias(made, bias), vector)
    by_hand = vector if bias == (*layout.stack, *layout.outputs) else vector.T
    np.testing.assert_array_equal(made, by_hand)


def test_targets_name_modules_or_parameters():
    params = tree(
        table__embedding=(8, 4), up__kernel=(4, 6), up__A=(4, 2), mlp__w=(4, 6), mlp__b=(6,), norm__scale=(4,)
    )
    assert set(read(params)) == {"up", "mlp/w"}
    assert set(read(params, ".*")) == {"up", "mlp/w"}
    assert set(read(params, "table")) == set(read(params, "table/embedding")) == {"table/embedding"}
    assert set(read(params, "up")) == set(read(params, "^up$")) == set(read(params, "up/kernel")) == {"up"}
    assert set(read(params, "up/A")) == {"up/A"}
    assert set(read(params, "mlp$")) == set(read(params, "w$")) == {"mlp/w"}
    assert set(read({"body": params}, "body")) == {"body/up", "body/mlp/w"}
    with pytest.raises(UserError, match="target pattern 'norm' matches no path"):
        read(params, "norm")
    (site,) = Adapter(HUT(rank=1), "mlp").sites(params)
    assert site.bias == ("mlp", "b")


def test_a_shift_is_left_out_where_there_is_no_bias_and_the_report_says_so():
    params = tree(up__kernel=(4, 6), up__bias=(6,), down__kernel=(6, 4))
    adapter = Adapter(HUT(rank=2), "all-linear")
    assert [sorted(site.factors) for site in adapter.sites(params)] == [["a", "b", "g", "s"], ["a", "b", "g"]]
    assert adapter.report(params).splitlines()[-1] == "no shift, for want of a bias, at 1 of 2: 'down'"
    assert "no shift" not in Adapter(HUT(rank=2, shift=False), "all-linear").report(params)


def test_a_rank_that_does_not_fit_one_of_many_is_said_with_all_ways_out():
    params = tree(a__kernel=(8, 8), b__kernel=(8, 6), c__kernel=(8, 8))
    with pytest.raises(UserError) as error:
        Adapter(HUT(rank=4), "all-linear").sites(params)
    for said in ("b: HUT: rank 4", "[8, 6]", "2", "1 of 3 kernels", "ranks={'^b$': ", "exclude='^b$'"):
        assert said in str(error.value)
    fixed = Adapter(HUT(rank=4), "all-linear", ranks={"^b$": 2})
    assert [site.transform.rank for site in fixed.sites(params)] == [4, 2, 4]


@pytest.mark.parametrize(
    ("query", "other"),
    [
        ("attention/query", "attention/key"),
        ("MultiHeadDotProductAttention_0/query", "MultiHeadDotProductAttention_0/key"),
        ("SelfAttention_0/value", "SelfAttention_0/out"),
        ("model/layers/0/self_attn/q_proj", "model/layers/0/self_attn/o_proj"),
        ("block/0/layer/0/SelfAttention/q", "block/0/layer/0/SelfAttention/k"),
        ("h/0/attn/c_attn", "h/0/attn/c_proj"),
        ("layer/0/attention/q_lin", "layer/0/attention/out_lin"),
        ("h/0/self_attention/query_key_value", "h/0/self_attention/dense"),
        ("layer_0/attn/q_einsum", "layer_0/attn/attn_vec_einsum"),
    ],
)
def test_the_default_targets_are_the_queries_and_values_of_a_family(query, other):
    params = tree(**{f"{name.replace('/', '__')}__kernel": (4, 4) for name in (query, other)})
    assert [site.path for site in Adapter(LoRA(rank=2)).sites(params)] == [tuple(query.split("/"))]
