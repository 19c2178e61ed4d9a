"""One continuation a prompt: greedy against a loop without a cache, sampling against the distribution's own."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from benchmarks.xla_text import count_collectives
from hut_jax import HUT, Adapter
from hut_jax.core import compilation, processor
from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import stack_layers
from hut_jax.generation import Constraints, Greedy, Sampling, decoding, generate
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.hub.pretrained import init_params

TWELVE = Constraints(max_new_tokens=12, eos_id=None)


def greedy(model, params, prompts, constraints=TWELVE, **options):
    return [one.tokens for one in generate(model, params, prompts, Greedy(), constraints, **options)]


def sample(model, params, prompts, method, constraints=TWELVE, **options):
    return [one.tokens for one in generate(model, params, prompts, method, constraints, **options)]


@pytest.fixture(scope="module")
def expected(model, params, prompts):
    """One prompt at a time, one token at a time, the whole sequence read anew: 12 tokens, none an end."""
    apply = jax.jit(lambda ids: model.apply({"params": params}, ids))
    results = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(12):
            padded = np.zeros((1, 24), np.int32)  # causal: what follows changes nothing
            padded[0, : len(tokens)] = tokens
            tokens.append(int(np.argmax(np.asarray(apply(padded))[0, len(tokens) - 1])))
        results.append(tokens[len(prompt) :])
    return results


def test_equals_generation_without_a_cache(model, params, prompts, expected):
    assert greedy(model, params, prompts) == expected


@pytest.mark.full
def test_scanned_layers_write_what_separate_ones_do(model, prompts):
    config = replace(model.config, n_layer=2)
    params = init_params(GPT2(config), jax.random.key(0))
    expected = greedy(GPT2(config), params, prompts)
    assert greedy(GPT2(config, scan_layers=True), stack_layers(params), prompts) == expected


@pytest.mark.parametrize("method", [Greedy(), pytest.param(Sampling(seed=1), marks=pytest.mark.full)])
def test_each_row_stops_at_its_own_end_token_of_several(model, params, prompts, method):
    endless = sample(model, params, prompts, method)
    ends = {endless[0][3], endless[1][0]}
    cut = [list(itertools.takewhile(lambda token: token not in ends, row)) for row in endless]
    assert [] in cut
    assert len({len(row) for row in cut}) > 1
    assert sample(model, params, prompts, method, Constraints(12, sorted(ends))) == cut


@pytest.mark.full
def test_one_new_token(model, params, prompts, expected):
    assert greedy(model, params, prompts, Constraints(1, None)) == [row[:1] for row in expected]
    assert greedy(model, params, prompts, Constraints(1, expected[0][0]))[0] == []


@pytest.mark.full
def test_a_prompt_may_fill_the_model(model, params):
    prompt = list(range(1, 46))
    [new] = greedy(model, params, [prompt], Constraints(3, None))
    logits = np.asarray(jax.jit(model.apply)({"params": params}, np.array([prompt + new])))
    assert new == np.argmax(logits[0, 44:47], axis=-1).tolist()


@pytest.mark.full
def test_another_apply(model, params, prompts, expected):
    """As an adapted model's: the first argument is what it says, here the parameters and a shift of one."""

    def apply(given, *args, **kwargs):
        params, shift = given
        logits, cache = model.apply({"params": params}, *args, **kwargs)
        return logits + shift * 1e3, cache

    zero, shift = np.zeros(50, np.float32), np.eye(50, dtype=np.float32)[7]
    assert greedy(model, (params, zero), prompts, apply=apply) == expected
    assert greedy(model, (params, shift), prompts, apply=apply) == [[7] * 12] * 3


@pytest.mark.parametrize(
    ("prompts", "count", "message"),
    [
        ([[1], []], 3, r"prompt 2 of 2 is empty"),
        ([[1] * 46], 3, r"prompt 1 of 1 has 46 tokens; with 3 new .* n_positions 48"),
        ([[1, 50]], 3, r"token id 50, outside 0\.\.49"),
        ([[-1]], 3, r"token id -1, outside"),
        ([[1]], 0, r"max_new_tokens must be at least 1, not 0"),
    ],
)
def test_errors(model, params, prompts, count, message):
    with pytest.raises(UserError, match=message) as error:
        greedy(model, params, prompts, Constraints(count, None))
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_the_batch_size_changes_nothing(model, params, prompts, expected):
    seen = []
    new = greedy(model, params, prompts, batch_size=2, progress=seen.append)
    assert new == expected
    assert seen == [2, 1]
    assert greedy(model, params, []) == []


@pytest.mark.full
def test_a_length_of_prompt_is_compiled_once(model, params):
    def search(*lengths):
        greedy(model, params, [[1] * length for length in lengths], batch_size=2)

    decoding._decode.plain.clear_cache()
    for lengths in ((3, 5), (16, 1), (9, 9), (2, 2)):
        search(*lengths)
    assert decoding._decode.plain._cache_size() == 1
    search(17, 1)
    assert decoding._decode.plain._cache_size() == 2
    greedy(model, params, [[1] * 9, [1] * 3], batch_size=2, length_multiple=32)  # the same 32 positions
    assert decoding._decode.plain._cache_size() == 2
    with pytest.raises(UserError, match="length_multiple must be at least 1, not 0"):
        greedy(model, params, [[1]], length_multiple=0)


@pytest.mark.full
def test_an_end_token_may_be_put_off(model, params, prompts, expected):
    later = greedy(model, params, prompts, Constraints(12, expected[0][0], min_new_tokens=6))
    assert all(len(row) >= 6 for row in later)
    assert all(expected[0][0] not in row for row in later)


def test_an_adapter_unmerged_writes_what_it_does_merged(model, params, prompts, expected):
    adapter = Adapter(HUT(rank=2))
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    random = np.random.default_rng(0)
    factors = jax.tree.map(lambda leaf: random.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)

    def apply(given, *args, **kwargs):
        return adapter.apply(model, *given, *args, **kwargs)

    merged = greedy(model, jax.jit(adapter.merge)(params, factors), prompts)
    assert greedy(model, (params, factors), prompts, apply=apply) == merged != expected


def test_devices_share_out_a_batch_and_say_nothing_to_each_other(model, params, prompts, expected, two_devices):
    sharding, compiled = two_devices
    assert greedy(model, params, prompts, batch_size=4, sharding=sharding) == expected
    with pytest.raises(UserError, match="batch_size 3 is not a multiple of the 2 devices"):
        greedy(model, params, prompts, batch_size=3, sharding=sharding)
    assert "num_partitions=2" in compiled[-1]
    assert count_collectives(compiled[-1]) == {}


@pytest.mark.parametrize("method", [Greedy(), Sampling(seed=0)])
def test_logits_that_are_no_numbers_are_an_error_and_no_text(model, params, prompts, method):
    broken = jax.tree.map(lambda leaf: np.asarray(leaf), params)
    table = np.array(broken["token_embedding"]["embedding"])
    table[prompts[1][-1]] = np.nan
    broken["token_embedding"] = {"embedding": table}
    with pytest.raises(UserError, match=r"prompt . of .*: no continuation has a score; are the model's weights finite"):
        sample(model, broken, prompts, method, TWELVE)


def test_a_seed_draws_the_same_tokens_whatever_the_batch(model, params, prompts, expected):
    method = Sampling(1, temperature=1.5)
    first = sample(model, params, prompts, method)
    assert sample(model, params, prompts, method, batch_size=2) == first
    compiled = decoding._decode.plain._cache_size()
    assert sample(model, params, prompts, Sampling(2, temperature=1.5)) != first != expected
    assert decoding._decode.plain._cache_size() == compiled  # another seed, the same program
    assert len(sample(model, params, prompts, Sampling(2**32 - 1, temperature=1.5))) == 3  # the largest seed
    again = sample(model, params, [*prompts[:2], prompts[0]], method)
    assert again[:2] == first[:2]
    assert again[2] != first[0]  # the same prompt at another place is another draw


def test_the_top_token_alone_is_greedy():
    logits = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)

    @jax.jit
    def pick(key):
        keys = jax.random.split(key, 64)
        return Sampling(0, top_k=1).pick(keys, logits), Greedy().pick(keys, logits), Sampling(0).pick(keys, logits)

    top, greedy, any_token = jax.device_get(pick(jax.random.key(0)))
    np.testing.assert_array_equal(top, np.argmax(logits, axis=-1))
    np.testing.assert_array_equal(greedy, top)
    assert (any_token != top).any()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        pytest.param({}, 6, marks=pytest.mark.full),
        ({"temperature": 0.5}, 6),
        pytest.param({"top_k": 3}, 3, marks=pytest.mark.full),
        pytest.param({"top_p": 0.75}, 3, marks=pytest.mark.full),  # 0.4 + 0.3 is not enough
        ({"temperature": 2.0, "top_k": 4, "top_p": 0.6}, 2),
    ],
)
def test_draws_have_the_distribution_that_the_options_say(options, kept):
    """By the chi-squared test; the probabilities below are cut and weighted by hand."""
    probabilities = np.array([0.02, 0.4, 0.13, 0.1, 0.3, 0.05])
    expected = probabilities ** (1 / options.get("temperature", 1.0))
    expected[np.argsort(expected)[: len(expected) - kept]] = 0
    expected /= expected.sum()
    draws = 4000
    logits = np.broadcast_to(np.log(probabilities).astype(np.float32), (draws, 6))
    tokens = jax.jit(lambda key: Sampling(0, **options).pick(jax.random.split(key, draws), logits))(jax.random.key(0))
    counts = np.bincount(np.asarray(tokens), minlength=6)
    assert not counts[expected == 0].any()
    assert chisquare(counts[expected > 0], draws * expected[expected > 0]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be at least 1e-06, not 0.0"),
        ({"temperature": 1e-38}, r"temperature must be at least 1e-06, not 1e-38"),
        ({"temperature": float("nan")}, r"temperature must be at least"),
        ({"top_k": 51}, r"top_k 51 is more than the vocabulary has tokens, 50"),
        ({"top_k": -1}, r"top_k must be at least 1, or 0 for all, not -1"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1"),
        ({"min_new_tokens": 4}, r"min_new_tokens must be .* at most max_new_tokens, 3, not 4"),
        ({"no_repeat_ngram": -1}, r"no_repeat_ngram must be"),
        ({"eos_id": 50}, r"end token 50 is outside the vocabulary, 0\.\.49"),
        ({"batch_size": 0}, r"batch_size must be at least 1"),
        ({"seed": 2**32}, r"seed must be at least 0 and below 2\*\*32"),
    ],
)
def test_options_out_of_range(model, params, options, message):
    def draw(seed=0, temperature=1.0, top_k=0, top_p=1.0, batch_size=16, eos_id=None, **constraints):
        method = Sampling(seed, temperature, top_k, top_p)
        sample(model, params, [[1]], method, Constraints(3, eos_id, **constraints), batch_size=batch_size)

    with pytest.raises(UserError, match=message):
        draw(**options)


def test_all_tokens_of_the_vocabulary_may_be_the_top_ones(model):
    Sampling(seed=0, top_k=model.config.vocab_size).check(model.config, Constraints(3, eos_id=None))


@pytest.mark.full
def test_xla_may_move_an_adapters_kernels_out_of_the_loop_over_tokens(model, params, monkeypatch):
    half = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, "bfloat16"), params)
    decoding._decode.plain.clear_cache()
    greedy(model, half, [[1]], apply=lambda params, *args, **kwargs: model.apply({"params": params}, *args, **kwargs))
    assert decoding._decode.plain._cache_size() == 1
    greedy(model, half, [[1]])  # without one, XLA must not where that costs more than it saves
    assert decoding._decode.plain._cache_size() == 1 + (not compilation._WIDENS_SLICES)
    monkeypatch.setattr(processor, "has_matrix_units", lambda: False)
    greedy(model, half, [[1]])  # a CPU without matrix units converts all kernels to fp32, best only once
    assert decoding._decode.plain._cache_size() == 2 + (not compilation._WIDENS_SLICES)  # its kernels are in no box
