"""Greedy and beam search of decoders, token for token against transformers' generate, on prompts of mixed length."""

import json

import jax
import numpy as np
import pytest

from hut_jax.config import default_config, freeze
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.generation import Beam, Constraints, Greedy, generate
from hut_jax.models.hub.pretrained import load_pretrained
from hut_jax.runs.decoding import Decoder
from hut_jax.runs.run import make_run, parts
from hut_jax.runs.trained import TrainedRun
from tests.parity import change
from tests.peers.test_generation_torch import END, OTHER_END, their_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peers

PROMPTS = 50
SIZES = {"vocab_size": 14, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.4}
SIZES |= {"bos_token_id": 0, "eos_token_id": END, "pad_token_id": END, "attn_implementation": "eager"}
MODELS = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6, "head_dim": 4, "query_pre_attn_scalar": 4, "tie_word_embeddings": False},
    "smollm3": {"no_rope_layer_interval": 2},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3": {"head_dim": 6, "tie_word_embeddings": True},
    "gemma3_text": {"sliding_window": 6, "sliding_window_pattern": 2, "head_dim": 4, "tie_word_embeddings": False},
    "phi3": {"sliding_window": 6, "partial_rotary_factor": 0.5},
    "phi3, longrope": {
        "original_max_position_embeddings": 4,
        "rope_parameters": {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 5.0]},
    },
    "llama, dynamic": {
        "max_position_embeddings": 24,
        "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 50.0},
    },
}
# Of the prompts. transformers looks at the longest row of a batch, where rotary positions depend on the length.
LENGTHS = {"phi3, longrope": (5, 33), "llama, dynamic": (20, 21)}


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_tokens_are_transformers(tmp_path, name, beams):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name.partition(",")[0], **SIZES | MODELS[name])
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    random = np.random.default_rng(0)
    prompts = [random.integers(6, 14, size).tolist() for size in random.integers(*LENGTHS.get(name, (1, 33)), PROMPTS)]
    options = {"num_beams": beams, "max_new_tokens": 20, "eos_token_id": [END, OTHER_END]}
    expected, _ = their_tokens((torch, transformers), theirs, prompts, options, see_prompt=False)
    method = Greedy() if beams == 1 else Beam(beams)
    constraints = Constraints(20, [END, OTHER_END])
    found, others = (
        [one.tokens for one in generate(model, given, prompts, method, constraints, batch_size=PROMPTS)]
        for given in (params, change(params))
    )
    assert found == expected != others
    assert len({len(tokens) for tokens in expected}) > 3


@pytest.mark.parametrize("beams", [1, 4])
def test_a_run_ends_its_texts_where_generation_config_says(tmp_path, beams):
    torch.manual_seed(0)
    tokenizer = load_tokenizer("assets/tiny")
    own = tokenizer.eos_id
    sizes = SIZES | {"vocab_size": 2048, "eos_token_id": own, "pad_token_id": own, "initializer_range": 0.3}
    config = transformers.AutoConfig.for_model("llama", **sizes, **MODELS["llama"])
    transformers.AutoModelForCausalLM.from_config(config).eval().save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    texts = [f"The {one} is near the {other}" for one in ("hill", "river", "old gate") for other in ("sea", "town")]
    settings = default_config("lm")
    settings.model = str(tmp_path)
    settings.decode.update({"beams": beams, "max_new_tokens": 20, "no_repeat_ngram": 0, "length_penalty": 1.0})
    settings.decode.batch_size = 1  # on one device, which compiles sooner

    def ours():
        run = make_run(freeze(settings))
        params = run.load_base()
        trained = TrainedRun(**parts(run), params=params, factors=run.adapter.init(jax.random.key(0), params))
        return Decoder(trained, run.task).generate(texts)

    def theirs():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
        ends = model.generation_config.eos_token_id
        options = {"num_beams": beams, "max_new_tokens": 20, "eos_token_id": ends}
        prompts = tokenizer.encode_batch(texts)
        return their_tokens((torch, transformers), model, prompts, options, see_prompt=False)[0]

    endless = ours()
    ends = [own, endless[0][3], endless[1][0]]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "pad_token_id": own}))
    assert ours() == theirs() != endless
