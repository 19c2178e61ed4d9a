"""Greedy generation: against a loop without a cache, and token for token against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.errors import UserError
from hut_jax.generation import greedy
from hut_jax.models.gpt2 import GPT2, GPT2Config
from hut_jax.models.pretrained import init_params, load_pretrained
from hut_jax.stacking import stack_layers

CONFIG = GPT2Config(
    vocab_size=50, n_positions=48, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5, eos_token_id=0
)
PROMPTS = [[3, 14, 15, 9], [26], [5, 35, 8, 9, 7, 9, 32, 38, 46]]


@pytest.fixture(scope="module")
def params():
    return init_params(GPT2(CONFIG), jax.random.key(0))


@pytest.fixture(scope="module")
def expected(params):
    """One prompt at a time, one token at a time, the whole sequence read anew: 12 tokens, none an end."""
    apply = jax.jit(lambda ids: GPT2(CONFIG).apply({"params": params}, ids))
    results = []
    for prompt in PROMPTS:
        tokens = list(prompt)
        for _ in range(12):
            padded = np.zeros((1, 24), np.int32)  # causal: what follows changes nothing
            padded[0, : len(tokens)] = tokens
            tokens.append(int(jnp.argmax(apply(padded)[0, len(tokens) - 1])))
        results.append(tokens[len(prompt) :])
    return results


def test_equals_generation_without_a_cache(params, expected):
    assert greedy(GPT2(CONFIG), params, PROMPTS, max_new_tokens=12, eos_id=None) == expected
    scanned = GPT2(CONFIG, scan_layers=True)
    assert greedy(scanned, stack_layers(params), PROMPTS, max_new_tokens=12, eos_id=None) == expected


def test_each_row_stops_at_its_own_end(params, expected):
    end = expected[0][3]
    cut = [row[: row.index(end)] if end in row else row for row in expected]
    assert {len(row) for row in cut} != {12}
    assert greedy(GPT2(CONFIG), params, PROMPTS, max_new_tokens=12, eos_id=end) == cut
    first = {row[0] for row in expected}
    assert greedy(GPT2(CONFIG), params, PROMPTS, max_new_tokens=12, eos_id=sorted(first)) == [[], [], []]


def test_one_new_token_and_no_prompts(params, expected):
    one = greedy(GPT2(CONFIG), params, PROMPTS, max_new_tokens=1, eos_id=None)
    assert one == [row[:1] for row in expected]
    assert greedy(GPT2(CONFIG), params, [], max_new_tokens=3, eos_id=None) == []


def test_a_prompt_may_fill_the_model(params):
    prompt = list(range(1, 46))
    [new] = greedy(GPT2(CONFIG), params, [prompt], max_new_tokens=3, eos_id=None)
    logits = jax.jit(GPT2(CONFIG).apply)({"params": params}, jnp.array([prompt + new]))
    assert new == jnp.argmax(logits[0, 44:47], axis=-1).tolist()


def test_another_apply(params, expected):
    """As an adapted model's: the first argument is what it says, here the parameters and a shift of one."""

    def apply(given, *args, **kwargs):
        params, shift = given
        logits, cache = GPT2(CONFIG).apply({"params": params}, *args, **kwargs)
        return logits + shift * 1e3, cache

    model = GPT2(CONFIG)
    zero, shift = jnp.zeros(50), jnp.zeros(50).at[7].set(1)
    assert greedy(model, (params, zero), PROMPTS, max_new_tokens=12, eos_id=None, apply=apply) == expected
    assert greedy(model, (params, shift), PROMPTS, max_new_tokens=2, eos_id=None, apply=apply) == [[7, 7]] * 3


@pytest.mark.parametrize(
    ("prompts", "count", "message"),
    [
        ([[1], []], 3, r"prompt 1 .*is empty"),
        ([[1] * 46], 3, r"prompt 0 .* 46 tokens; with 3 new .* n_positions 48"),
        ([[1, 50]], 3, r"token id 50, outside 0\.\.49"),
        ([[-1]], 3, r"token id -1, outside"),
        ([[1]], 0, r"max_new_tokens must be at least 1, not 0"),
    ],
)
def test_errors(params, prompts, count, message):
    with pytest.raises(UserError, match=message) as error:
        greedy(GPT2(CONFIG), params, prompts, max_new_tokens=count, eos_id=None)
    assert "\n" not in str(error.value)


@pytest.mark.peers
@pytest.mark.parametrize("seed", range(4))
def test_equals_transformers_token_for_token(tmp_path, seed):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=40, n_positions=64, n_embd=24, n_layer=2, n_head=3, initializer_range=0.4,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    random = np.random.default_rng(seed)
    prompts = [random.integers(2, 40, size).tolist() for size in (1, 5, 11, 3, 33)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[1] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = theirs.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=25)[:, longest:].tolist()
    expected = [row[: row.index(1)] if 1 in row else row for row in output]
    model, params = load_pretrained(tmp_path)
    assert greedy(model, params, prompts, max_new_tokens=25, eos_id=1) == expected
