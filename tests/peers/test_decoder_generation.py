"""Greedy and beam search of decoders, token for token against transformers' generate, on prompts of mixed length."""

import numpy as np
import pytest

from hut_jax.generation import Beam, Constraints, Greedy, generate
from hut_jax.models.hub.pretrained import load_pretrained
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
}


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", MODELS)
def test_the_tokens_are_transformers(tmp_path, family, beams):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES, **MODELS[family])
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    random = np.random.default_rng(0)
    prompts = [random.integers(6, 14, size).tolist() for size in random.integers(1, 33, PROMPTS)]
    options = {"num_beams": beams, "max_new_tokens": 20, "eos_token_id": [END, OTHER_END]}
    expected, _ = their_tokens((torch, transformers), theirs, prompts, options, see_prompt=False)
    method = Greedy() if beams == 1 else Beam(beams)
    found = generate(model, params, prompts, method, Constraints(20, [END, OTHER_END]), batch_size=25)
    assert [one.tokens for one in found] == expected
    assert len({len(tokens) for tokens in expected}) > 3
