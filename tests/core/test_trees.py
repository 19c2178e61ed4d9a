import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hut_jax.core.scanned_layers import scanned, stack_layers, unstack_layers
from hut_jax.core.trees import escape, flatten, show, split, unescape, unflatten

NAMES = st.text(st.sampled_from("ab/~01"), min_size=1, max_size=5)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=8))
def test_a_tree_is_rebuilt_as_it_was(leaf):
    tree = {"root": leaf}
    assert unflatten(flatten(tree)) == tree


@given(PATHS, PATHS)
def test_an_escaped_path_is_read_back_and_no_other_is_written_so(path, other):
    assert unescape(escape(path)) == path
    assert (escape(path) == escape(other)) == (path == other)


@given(st.lists(st.text(st.sampled_from("ab_0"), min_size=1, max_size=5), max_size=4).map(tuple))
def test_a_path_without_special_names_is_written_as_it_is_shown(path):
    assert split(show(path)) == path
    assert escape(path) == show(path)


def test_escapes_are_those_of_json_pointer():
    assert escape(("WeightNorm_0", "normed/kernel/scale")) == "WeightNorm_0/normed~1kernel~1scale"
    assert escape(("a~1b", "c")) == "a~01b/c"


def test_layers_are_stacked_whatever_slashes_their_names_hold():
    tree = {
        "layer_0": {"norm": {"dense/kernel/scale": np.zeros(3)}},
        "layer_1": {"norm": {"dense/kernel/scale": np.ones(3)}},
        "layer_2/x": {"scale": np.full(3, 2.0)},
    }
    stacked = stack_layers(tree)
    assert jax.tree.map(np.shape, stacked) == {
        "layers": {"norm": {"dense/kernel/scale": (2, 3)}},
        "layer_2/x": {"scale": (3,)},
    }
    back = unstack_layers(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert scanned(("layer_12", "a", "b")) == (("layers", "a", "b"), 12)
    assert scanned(("layer_12",)) == (("layer_12",), None)
