"""Which tokens may not come next, against the definition."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax import UserError
from hut_jax.generation import Constraints

VOCAB, PROMPT, STEPS = 4, 5, 9


@functools.partial(jax.jit, static_argnums=0)
def forbidden(constraints, prompts, lengths, new, step):
    history = constraints.history(prompts, lengths)
    history = history.at[:, history.shape[1] - STEPS :].set(new)
    return jnp.isneginf(constraints.forbid(jnp.zeros((len(prompts), VOCAB)), history, step))


def repeats(tokens, size):
    """The tokens that would end an n-gram which is there already."""
    grams = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
    return {token for token in range(VOCAB) if (*tokens[len(tokens) - size + 1 :], token) in grams}


@pytest.mark.parametrize("sees_prompt", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_ngram_comes_twice(size, sees_prompt, data):
    token = st.integers(0, VOCAB - 1)
    prompt = data.draw(st.lists(token, min_size=1, max_size=PROMPT))
    new = data.draw(st.lists(token, max_size=STEPS - 1))
    constraints = Constraints(STEPS, None, no_repeat_ngram=size, ngrams_see_prompt=sees_prompt)
    padded = [prompt + [0] * (PROMPT - len(prompt))]
    rest = [new + [0] * (STEPS - len(new))]  # zeros that are not written yet must not count
    args = np.array(padded, np.int32), np.array([len(prompt)], np.int32), np.array(rest, np.int32), len(new)
    [found] = np.asarray(forbidden(constraints, *args))
    seen = (prompt if sees_prompt else []) + new
    assert set(np.flatnonzero(found)) == (repeats(seen, size) if len(seen) >= size - 1 else set())


@pytest.mark.parametrize(("step", "expected"), [(0, {1, 3}), (2, {1, 3}), (3, set())])
def test_no_end_before_the_minimum(step, expected):
    constraints = Constraints(STEPS, (1, 3), min_new_tokens=3)
    zeros = np.zeros((1, STEPS), np.int32)
    [found] = np.asarray(forbidden(constraints, zeros, np.array([1]), zeros, step))
    assert set(np.flatnonzero(found)) == expected


def test_some_tokens_never_come():
    zeros = np.zeros((2, STEPS), np.int32)
    found = np.asarray(forbidden(Constraints(STEPS, 1, never=(3, 0, 3, 7)), zeros, np.array([1, 1]), zeros, 4))
    assert [set(np.flatnonzero(row)) for row in found] == [{0, 3}, {0, 3}]
    assert Constraints(3, 1, never=[3, 0, 3]) == Constraints(3, 1, never=(0, 3)) != Constraints(3, 1)
    assert hash(Constraints(3, 1, never=[3, 0])) == hash(Constraints(3, 1, never=(0, 3)))


def test_end_tokens_are_given_as_one_or_several_or_none():
    assert Constraints(3, None).ends == ()
    assert Constraints(3, 7).ends == Constraints(3, np.int64(7)).ends == (7,)
    assert Constraints(3, [9, 7, 9]).ends == (7, 9)
    assert Constraints(3, [9, 7]) == Constraints(3, (7, 9)) != Constraints(3, 7)
    assert hash(Constraints(3, [9, 7])) == hash(Constraints(3, (7, 9)))
    assert Constraints(3, (7, 9)).until_end([1, 9, 7]) == [1]
    assert Constraints(3, None).until_end(np.array([1, 9, 7])) == [1, 9, 7]


def test_an_end_token_outside_the_vocabulary_is_told_with_advice_that_works():
    """Some checkpoints name their vocabulary's size as the end token."""
    config = SimpleNamespace(vocab_size=VOCAB)
    with pytest.raises(
        UserError, match=r"end token 4 is outside the vocabulary, 0\.\.3; leave it out of eos_id, or give"
    ):
        Constraints(3, [1, VOCAB]).check(config)
    Constraints(3, [1]).check(config)
    Constraints(3, None).check(config)
