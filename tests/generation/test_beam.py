"""Beam search against exhaustive search, and what its options do."""

import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from benchmarks.xla_text import count_collectives
from hut_jax.adapters.adapter import Adapter
from hut_jax.core.errors import UserError
from hut_jax.generation import Beam, Constraints, Greedy, Sampling, generate
from hut_jax.generation.model_steps import Prompts
from hut_jax.models import beam_cache
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.transforms import HUT

ENDS, OTHERS, STEPS, BEAMS = (0, 3), (1, 2), 4, 12
TOY = GPT2(GPT2Config(vocab_size=12, n_positions=24, n_embd=8, n_layer=1, n_head=2, initializer_range=0.8))
ONLY = jnp.where(jnp.arange(12) < 4, 0, -jnp.inf)


def only_four_tokens(params, *args, **kwargs):
    """So few can come that 12 beams hold every continuation until the last step."""
    logits, cache = TOY.apply({"params": params}, *args, **kwargs)
    return logits + ONLY, cache


@jax.jit
def _init(seed):
    return init_params(TOY, jax.random.key(seed, impl="rbg"))


def random_params(seed):
    return jax.device_get(_init(seed))


@jax.jit
def log_probabilities(params, tokens):
    return jax.nn.log_softmax(TOY.apply({"params": params}, tokens) + ONLY)


def exhaustive(params, prompt, penalty):
    """Every continuation and its score, the best first. Two of them may differ in the end token alone."""
    starts = [start for length in range(STEPS) for start in itertools.product(OTHERS, repeat=length)]
    continuations = [[*start, end] for start in starts for end in ENDS] + [*itertools.product(OTHERS, repeat=STEPS)]
    tokens = np.zeros((len(continuations), 20), np.int32)
    for row, continuation in enumerate(continuations):
        tokens[row, : len(prompt) + len(continuation)] = [*prompt, *continuation]
    logs = np.asarray(log_probabilities(params, tokens), np.float64)
    scored = []
    for row, continuation in enumerate(continuations):
        places = range(len(prompt) - 1, len(prompt) + len(continuation) - 1)
        total = sum(logs[row, place, tokens[row, place + 1]] for place in places)
        scored.append((total / len(continuation) ** penalty, [token for token in continuation if token not in ENDS]))
    return sorted(scored, key=lambda pair: -pair[0])


@pytest.mark.parametrize(
    ("early_stopping", "penalty"), [("never", 0.9), pytest.param(False, 0.0, marks=pytest.mark.full)]
)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), prompt=st.lists(st.integers(0, 11), min_size=1, max_size=9))
def test_beams_for_all_find_what_exhaustive_search_does_with_two_end_tokens(early_stopping, penalty, seed, prompt):
    params = random_params(seed)
    method = Beam(BEAMS, penalty, early_stopping)
    [best] = generate(TOY, params, [prompt], method, Constraints(STEPS, ENDS), apply=only_four_tokens)
    found, expected = [best, *best.others], exhaustive(params, prompt, penalty)[:BEAMS]
    np.testing.assert_allclose([one.score for one in found], [score for score, _ in expected], atol=1e-4)
    for one, (score, tokens) in zip(found, expected, strict=True):
        close = [other for value, other in expected if abs(value - score) < 1e-4]
        assert one.tokens in close if len(close) > 1 else one.tokens == tokens


TWELVE = Constraints(max_new_tokens=12, eos_id=None)
FOUR = Beam(4, 0.5)  # most tests search with these two, which are compiled once


def tokens_of(found):
    return [one.tokens for one in found]


@pytest.mark.full
def test_one_beam_is_greedy(model, params, prompts):
    found = generate(model, params, prompts, Beam(1), TWELVE)
    assert tokens_of(found) == tokens_of(generate(model, params, prompts, Greedy(), TWELVE))
    assert [one.others for one in found] == [()] * 3


@pytest.mark.full
def test_the_others_are_in_the_order_of_their_scores(model, params, prompts):
    found = [[best, *best.others] for best in generate(model, params, prompts, FOUR, TWELVE)]
    tokens = np.zeros((12, 24), np.int32)
    for row, one in enumerate(itertools.chain(*found)):
        sequence = [*prompts[row // 4], *one.tokens]
        tokens[row, : len(sequence)] = sequence
    logs = log_softmax(jax.jit(model.apply)({"params": params}, tokens), axis=-1)
    for row, one in enumerate(itertools.chain(*found)):
        places = np.arange(12) + len(prompts[row // 4]) - 1
        total = logs[row, places, one.tokens].sum()
        assert one.score == pytest.approx(total / 12**0.5, abs=1e-4)
    for row in found:
        assert len({tuple(one.tokens) for one in row}) == 4
        assert [one.score for one in row] == sorted((one.score for one in row), reverse=True)


@pytest.mark.full
def test_the_batch_changes_nothing(model, params, prompts):
    together = generate(model, params, prompts, FOUR, TWELVE)
    assert tokens_of(generate(model, params, prompts, FOUR, TWELVE, batch_size=2)) == tokens_of(together)


@pytest.mark.full
def test_early_stopping_ends_at_the_first_finished(model, params, prompts):
    """With every token an end, one step finishes all that is wanted."""
    found = generate(model, params, prompts, Beam(2, 0.0, early_stopping=True), Constraints(12, range(50)))
    found = [[best, *best.others] for best in found]
    assert [one.tokens for row in found for one in row] == [[]] * 6
    logits = np.asarray(jax.jit(model.apply)({"params": params}, np.array([prompts[0]])))[0, -1]
    best = np.sort(log_softmax(logits))[:-3:-1]
    np.testing.assert_allclose([one.score for one in found[0]], best, atol=1e-5)


def test_the_search_goes_on_while_the_option_says():
    """After 2 of 8 tokens the best living beam has the log-probability -3, and the worst finished one this score."""
    constraints = Constraints(8, 0)
    cases = [
        (True, 1.0, -np.inf, True),
        (True, 1.0, -9.0, False),
        (False, 1.0, -2.0, True),  # -3 / 2 now
        (False, 1.0, -1.0, False),
        ("never", 1.0, -1.0, True),  # -3 / 8 at the end
        ("never", 1.0, -0.3, False),
        ("never", -1.0, -10.0, True),  # longer is worse: -3 * 2 now
        (False, -1.0, -10.0, True),
    ]

    def open_after(early_stopping, penalty, finished):
        method = Beam(2, penalty, early_stopping)
        state = method.start(constraints, Prompts(np.ones((1, 3), np.int32), np.array([3]), np.array([0])), 0)
        state = state._replace(
            tokens=jnp.ones((1, 2), jnp.int32),
            history=jnp.ones((1, 2, 8), jnp.int32),
            log_probabilities=jnp.array([[-3.0, -5.0]]),
            finished=state.finished._replace(scores=jnp.array([[9.0, finished]])),
        )
        logits = jnp.broadcast_to(jnp.array([-jnp.inf, 0.0, -jnp.inf]), (1, 2, 3))
        return method.choose(constraints, logits, state, 1)[0].open

    found = jax.jit(lambda: [open_after(*case) for *case, _ in cases])()
    assert [bool(is_open) for is_open in found] == [wanted for *_, wanted in cases]


@pytest.mark.full
def test_a_beam_as_wide_as_the_vocabulary(model, params, prompts):
    found = generate(model, params, prompts, Beam(50), Constraints(1, 0))
    assert [len(best.others) for best in found] == [49] * 3
    assert math.isclose(sum(math.exp(one.score) for one in [found[1], *found[1].others]), 1, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 51}, r"51 beams are more than the vocabulary has tokens, 50"),
        ({"beams": 0}, r"beams must be at least 1, not 0"),
        ({"length_penalty": math.inf}, r"length_penalty must be finite"),
        ({"length_penalty": -150.0}, r"length_penalty -150.0: 3 tokens .* between -68.3 and 68.3"),
        ({"early_stopping": 1}, r"early_stopping must be True, False or 'never', not 1"),
        ({"early_stopping": "maybe"}, r"early_stopping must be True, False or 'never', not 'maybe'"),
        ({"max_new_tokens": 48}, r"prompt 1 of 1 has 1 tokens; with 48 new .* n_positions 48"),
    ],
)
def test_errors(model, params, options, message):
    def search(beams=2, max_new_tokens=3, **options):
        generate(model, params, [[1]], Beam(beams, **options), Constraints(max_new_tokens, None))

    with pytest.raises(UserError, match=message) as error:
        search(**options)
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_an_adapter_unmerged_writes_what_it_does_merged(model, params, prompts):
    adapter = Adapter(HUT(rank=2))
    random = np.random.default_rng(0)
    factors = jax.tree.map(
        lambda leaf: random.normal(0, 0.5, leaf.shape).astype(np.float32),
        jax.eval_shape(adapter.init, jax.random.key(0), params),
    )

    def apply(given, *args, **kwargs):
        return adapter.apply(model, *given, *args, **kwargs)

    merged = generate(model, jax.jit(adapter.merge)(params, factors), prompts, FOUR, TWELVE)
    unmerged = generate(model, (params, factors), prompts, FOUR, TWELVE, apply=apply)
    assert tokens_of(unmerged) == tokens_of(merged) != tokens_of(generate(model, params, prompts, FOUR, TWELVE))
    assert [one.score for one in unmerged] == pytest.approx([one.score for one in merged], abs=1e-4)


def test_the_options_are_values():
    assert hash(Beam(4)) == hash(Beam(4))
    assert Beam(4) == Beam(4) != Beam(5)


def test_the_defaults_are_those_of_transformers():
    assert Beam(4) == Beam(4, length_penalty=1.0, early_stopping=False)
    assert Sampling(0) == Sampling(0, temperature=1.0, top_k=0, top_p=1.0)
    assert Constraints(4, None) == Constraints(4, None, min_new_tokens=0, no_repeat_ngram=0, ngrams_see_prompt=False)
    assert inspect.signature(generate).parameters["batch_size"].default == 16


def test_where_nothing_is_found_the_prompt_is_named():
    """No token may come twice, and there are 12 tokens."""
    with pytest.raises(UserError, match="prompt 1 of 1: no continuation has a score"):
        generate(TOY, random_params(0), [[1]], Beam(2), Constraints(13, None, no_repeat_ngram=1))


@pytest.mark.full
def test_where_no_token_may_come_twice_each_comes_once():
    [found] = generate(TOY, random_params(0), [[1]], Beam(2), Constraints(12, None, no_repeat_ngram=1))
    assert sorted(found.tokens) == list(range(12))


@pytest.mark.full
def test_devices_share_out_a_batch_and_say_nothing_to_each_other(model, params, prompts, two_devices, monkeypatch):
    """The tokens fill several blocks, and on two devices several chunks, too."""
    sharding, compiled = two_devices
    options = Beam(3), Constraints(2 * beam_cache.BLOCK + 4, 7, no_repeat_ngram=2)
    alone = generate(model, params, prompts, *options)
    assert max(len(one.tokens) for one in alone) > 2 * beam_cache.BLOCK
    monkeypatch.setattr(beam_cache, "CHUNK", 8)
    shared = generate(model, params, prompts, *options, batch_size=4, sharding=sharding)
    for one, other in zip(shared, alone, strict=True):
        assert tokens_of([one, *one.others]) == tokens_of([other, *other.others])
        assert [one.score, *(each.score for each in one.others)] == pytest.approx(
            [other.score, *(each.score for each in other.others)], abs=1e-5
        )
    assert "num_partitions=2" in compiled[-1]
    assert count_collectives(compiled[-1]) == {}
