"""Beam search and greedy, token for token against transformers' generate on random models, prompts of mixed length."""

import numpy as np
import pytest

from hut_jax.generation import Beam, Constraints, Greedy, generate
from hut_jax.models.hub.pretrained import load_pretrained

pytestmark = pytest.mark.peers

PROMPTS = 80
END, OTHER_END = 1, 5
COMMON = 54  # what the model of 600 tokens writes every other time

BEAMS = [
    {"num_beams": 10, "length_penalty": 0.9, "no_repeat_ngram_size": 4, "max_new_tokens": 24},  # as for E2E
    {"num_beams": 4, "length_penalty": 1.0, "early_stopping": True},
    {"num_beams": 3, "length_penalty": 0.3, "early_stopping": "never", "eos_token_id": [END, OTHER_END]},
    {"num_beams": 5, "length_penalty": -0.5, "early_stopping": "never", "no_repeat_ngram_size": 2},
    {"num_beams": 4, "length_penalty": 0.0, "min_new_tokens": 6, "no_repeat_ngram_size": 1},
    {"num_beams": 6, "length_penalty": 0.8, "eos_token_id": [END, OTHER_END], "num_return_sequences": 3},
    {"num_beams": 1, "no_repeat_ngram_size": 3, "min_new_tokens": 3},  # greedy, and the next two
    {"num_beams": 1, "eos_token_id": [END, 10]},  # greedy never writes the other end
    {"num_beams": 1, "eos_token_id": None, "max_new_tokens": 24},
    {"num_beams": 2, "length_penalty": 0.9, "no_repeat_ngram_size": 4, "eos_token_id": COMMON},  # of 600 tokens
]


class NewTokensOnly:
    """Their processor looks at the prompt too; this shows it what was generated alone."""

    def __init__(self, processor, prompt_length):
        self.processor, self.prompt_length = processor, prompt_length

    def __call__(self, input_ids, scores):
        return self.processor(input_ids[:, self.prompt_length :], scores)


@pytest.fixture(scope="module")
def peers():
    return pytest.importorskip("torch"), pytest.importorskip("transformers")


def their_tokens(peers, model, prompts, options, *, see_prompt):
    """Their continuations without end tokens, and the scores of beam search: `num_return_sequences` a prompt."""
    torch, transformers = peers
    longest = max(map(len, prompts))
    ids = torch.tensor([[END] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"max_new_tokens": 14, "eos_token_id": END, **options}
    processors = transformers.LogitsProcessorList()
    if not see_prompt and "no_repeat_ngram_size" in options:
        theirs = transformers.NoRepeatNGramLogitsProcessor(options.pop("no_repeat_ngram_size"))
        processors.append(NewTokensOnly(theirs, longest))
    out = model.generate(
        ids, attention_mask=mask, do_sample=False, pad_token_id=END, logits_processor=processors,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    ends = np.atleast_1d(options["eos_token_id"]).tolist() if options["eos_token_id"] is not None else []
    rows = out.sequences[:, longest:].tolist()
    cut = [next((row[:i] for i, token in enumerate(row) if token in ends), row) for row in rows]
    return cut, None if options["num_beams"] == 1 else out.sequences_scores.numpy()


@pytest.mark.parametrize("see_prompt", [False, True])
@pytest.mark.parametrize("case", range(len(BEAMS)))
def test_the_tokens_and_scores_are_transformers(peers, tmp_path, case, see_prompt):
    torch, transformers = peers
    options = BEAMS[case]
    if see_prompt and "no_repeat_ngram_size" not in options:
        pytest.skip("no n-grams to see")
    vocab = 50 if options.get("no_repeat_ngram_size") == 1 else 14  # a small one has its end token often
    if options["num_beams"] == 2:
        vocab = 600  # more than groups of 128 for its 4 candidates: see grouped_top_k
    torch.manual_seed(case)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocab, n_positions=64, n_embd=24, n_layer=2, n_head=3, initializer_range=0.3,
            bos_token_id=0, eos_token_id=END, pad_token_id=END,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    random = np.random.default_rng(case)
    prompts = [random.integers(6, vocab, size).tolist() for size in random.integers(1, 33, PROMPTS)]
    if see_prompt:  # in theirs the padding before a prompt has n-grams too: there shall be none
        prompts = [prompt[:length] for prompt, length in zip(prompts, [1, 7, 20] * PROMPTS, strict=False)]
        prompts.sort(key=len)
    lengths = sorted(set(map(len, prompts))) if see_prompt else [0]
    batches = [[prompt for prompt in prompts if len(prompt) == length or not see_prompt] for length in lengths]
    rows, scores = zip(
        *(their_tokens(peers, theirs, batch, options, see_prompt=see_prompt) for batch in batches), strict=True
    )
    expected = [row for part in rows for row in part]
    returned = options.get("num_return_sequences", 1)
    plain = {"num_beams": options["num_beams"], "num_return_sequences": returned}
    without_options, _ = their_tokens(peers, theirs, batches[-1], plain, see_prompt=see_prompt)
    assert rows[-1] != without_options

    constraints = Constraints(
        options.get("max_new_tokens", 14),
        options.get("eos_token_id", END),
        min_new_tokens=options.get("min_new_tokens", 0),
        no_repeat_ngram=options.get("no_repeat_ngram_size", 0),
        ngrams_see_prompt=see_prompt,
    )
    if options["num_beams"] == 1:
        found = generate(model, params, prompts, Greedy(), constraints, batch_size=40)
        assert [one.tokens for one in found] == expected
        return
    method = Beam(options["num_beams"], options["length_penalty"], options.get("early_stopping", False))
    found = generate(model, params, prompts, method, constraints, batch_size=40)
    best = [[one, *one.others][:returned] for one in found]
    assert [len(row) for row in best] == [returned] * PROMPTS
    assert [one.tokens for row in best for one in row] == expected
    np.testing.assert_allclose([one.score for row in best for one in row], np.concatenate(scores), atol=1e-4)
    lengths = {len(tokens) for tokens in expected}
    assert len(lengths) > 1  # some ended, some were cut
