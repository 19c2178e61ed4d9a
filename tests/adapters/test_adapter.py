"""An adapter's sites in a model's parameters, its report, and its description."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, Full, LoRA, UserError
from hut_jax.transforms.base import Transform


def dense(*shape, outputs=1):
    return {"kernel": np.ones(shape, np.float32), "bias": np.zeros(shape[-outputs:], np.float32)}


BLOCK = {"up": dense(8, 12), "split": dense(12, 3, 4, outputs=2), "join": dense(3, 4, 8)}
PARAMS = {"block_0": BLOCK, "block_1": BLOCK}


def test_the_report_shows_what_matched_and_the_totals():
    adapter = Adapter(HUT(rank=4), "up$", ranks={"block_1": 2})
    lines = adapter.report(PARAMS).splitlines()
    assert " ".join(lines[1].split()) == "block_0/up [8, 12] io a[8, 4] b[4, 12] g[12] s[12] 104"
    assert " ".join(lines[2].split()) == "block_1/up [8, 12] io a[8, 2] b[2, 12] g[12] s[12] 64"
    total = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    factors = jax.eval_shape(adapter.init, jax.random.key(0), PARAMS)
    assert adapter.count(PARAMS).trainable == 168 == sum(leaf.size for leaf in jax.tree.leaves(factors))
    assert lines[3] == f"trainable 168 of {total:,} ({100 * 168 / total:.3f} %)"
    assert lines[0] == "path        kernel   axes  factors                       parameters"
    assert len({line.index(word) for line, word in zip(lines, ("kernel", "[8", "[8"), strict=False)}) == 1


def test_counting_needs_shapes_alone():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert Adapter(HUT(rank=2), "all-linear").count(shapes).trainable == 2 * (40 + 24 + 48 + 24 + 40 + 16)


def test_a_key_depends_on_the_path_alone():
    """Another target more does not change what a layer starts from (for transformations that draw at random)."""

    class Random(Transform):
        name = "random"

        def init(self, key, kernel, bias):
            return {"r": jax.random.normal(key, kernel.shape)}

    @jax.jit
    def both():
        return [Adapter(Random(), of).init(jax.random.key(0), PARAMS) for of in ("block_1/up", "up$")]

    few, many = both()
    np.testing.assert_array_equal(few["block_1"]["up"]["r"], many["block_1"]["up"]["r"])
    assert np.abs(many["block_0"]["up"]["r"] - many["block_1"]["up"]["r"]).max() > 0.1


def test_the_axes_of_a_kernel_without_a_bias_must_be_said():
    hut = HUT(rank=2, shift=False)
    params = {"heads": {"kernel": jnp.ones((8, 2, 4))}}
    with pytest.raises(UserError, match=r"heads: cannot tell which axes .*layout="):
        Adapter(hut, "heads").init(jax.random.key(0), params)
    with pytest.raises(UserError, match=r"heads: layout 'io' does not fit a kernel of shape \[8, 2, 4\]"):
        Adapter(hut, "heads", layout={"heads": "io"}).init(jax.random.key(0), params)
    right = Adapter(hut, "heads", layout={"heads": "ioo"})
    assert right.init(jax.random.key(0), params)["heads"]["a"].shape == (8, 2)
    turned = Adapter(hut, "heads", layout={"heads": "oio"})
    assert turned.init(jax.random.key(0), params)["heads"]["b"].shape == (2, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "upp$"}, "target pattern 'upp\\$' matches no path; did you mean 'block_0/up'"),
        ({"targets": "("}, "'\\(' is not a regular expression"),
        ({"targets": "up", "exclude": "dwn"}, "exclude pattern 'dwn' matches no path"),
        ({"targets": "up", "exclude": "block"}, "removes every path"),
        ({}, "no default targets fit this model"),
        ({"targets": "up", "ranks": {"join": 2}}, "'join' in ranks= matches no target"),
        ({"targets": "up", "layout": {"join": "iio"}}, "'join' in layout= matches no target"),
        ({"targets": "up", "ranks": {"sideways": 2}}, "'sideways' in ranks= matches no target"),
        ({"targets": "up", "ranks": {"up": 3}}, "block_0/up: HUT: rank 3 does not divide .*: 2, 4"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Adapter(HUT(rank=2), **arguments).init(jax.random.key(0), PARAMS)


def test_a_bias_that_fits_no_axis_is_refused_unless_the_layout_is_given():
    params = {"odd": {"kernel": np.ones((24, 8), np.float32), "bias": np.ones(6, np.float32)}}
    with pytest.raises(UserError, match=r"odd: its bias \[6\] does not fit the outputs of its kernel \[24, 8\]"):
        Adapter(HUT(rank=2), "odd").sites(params)
    (site,) = Adapter(HUT(rank=2), "odd", layout={"odd": "io"}).sites(params)
    assert not site.has_bias


def test_an_adapter_is_a_value():
    one = Adapter(HUT(rank=2), "up", ranks={"block_0": 4})
    same = Adapter(HUT(rank=2), ["up"], ranks=[("block_0", 4)])
    assert one == same
    assert hash(one) == hash(same)
    assert one != Adapter(HUT(rank=4), "up")


@pytest.mark.parametrize(
    "adapter",
    [
        Adapter(HUT(rank=2)),
        Adapter(LoRA(rank=2, alpha=3.0, rs=True), "up", exclude="block_0", also_train=["head", "norm"]),
        Adapter(HUT(rank=2), "all-linear", ranks={"block_0": 4, "up": 1}, layout={"^layers/": "lio"}),
        Adapter(Full(), ""),
    ],
    ids=lambda adapter: adapter.transform.name,
)
def test_an_adapter_is_rebuilt_from_its_description(adapter):
    description = adapter.to_dict()
    assert list(description) == ["transform", "targets", "exclude", "ranks", "layout", "also_train"]
    assert Adapter.from_dict(description) == adapter
    assert Adapter.from_dict(json.loads(json.dumps(description)) | {"base": "is not the adapter's"}) == adapter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": None}, "None are not pairs of a pattern and a value"),
        ({"targets": "("}, "is not a regular expression"),
        ({"transform": {"rank": 2}}, "it names no transformation"),
        ({"transform": "hut"}, "it names no transformation"),
        ({"transform": {"name": "hat"}}, "unknown transformation 'hat'; did you mean 'hut'"),
        ({"transform": {"name": "hut", "rnk": 2}}, "hut has no setting 'rnk'; did you mean 'rank'"),
    ],
)
def test_a_wrong_description_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        Adapter.from_dict(Adapter(HUT(rank=2)).to_dict() | change)
    with pytest.raises(UserError, match="it names no transformation"):
        Adapter.from_dict({})


@pytest.mark.parametrize("missing", ["targets", "exclude", "ranks", "layout", "also_train"])
def test_a_field_that_a_description_lacks_takes_its_default(missing):
    fields = {"targets": "up", "exclude": "block_0", "ranks": {"up": 1}, "layout": {"up": "io"}, "also_train": "head"}
    description = Adapter(HUT(rank=2), **fields).to_dict()
    del description[missing], fields[missing]
    assert Adapter.from_dict(description) == Adapter(HUT(rank=2), **fields)
