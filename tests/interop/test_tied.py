import numpy as np
import pytest

from hut_jax import UserError, load_pretrained, save_pretrained
from hut_jax.interop.tied import untied_kernels
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.roberta_config import RobertaConfig

SIZES = {"vocab_size": 7, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 6, "max_position_embeddings": 8}


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_only_a_head_that_is_tied_can_come_apart(kind):
    heads = {
        head: untied_kernels(RobertaConfig(kind, **SIZES, head=head)) for head in ("mlm", "none", "classification")
    }
    assert heads == {"mlm": (("mlm/decoder/kernel", "token_embedding/embedding"),), "none": (), "classification": ()}
    assert untied_kernels(RobertaConfig(kind, **SIZES, head="mlm", tie_word_embeddings=False)) == ()
    gpt2 = {"vocab_size": 7, "n_positions": 4, "n_embd": 4, "n_layer": 1, "n_head": 1}
    assert untied_kernels(GPT2Config(**gpt2)) == (("lm_head/kernel", "token_embedding/embedding"),)


def test_a_model_whose_head_came_apart_is_saved_untied(gpt2, tmp_path):
    model, params = gpt2
    apart = params | {"lm_head": {"kernel": 2 * params["token_embedding"]["embedding"].T}}
    save_pretrained(tmp_path, model, apart)
    again, loaded = load_pretrained(tmp_path)
    assert not again.config.tie_word_embeddings
    np.testing.assert_array_equal(loaded["lm_head"]["kernel"], apart["lm_head"]["kernel"])
    with pytest.raises(UserError, match=r"params have 'lm_head/bias', which the model does not have"):
        save_pretrained(tmp_path, model, params | {"lm_head": {"bias": np.zeros(7)}})
