"""The families of models that can be loaded: the classes of each, its heads, and the names found in its old files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig
from hut_jax.models.transformer import Transformer

# What torch.compile, FSDP and checkpointing put into the names of what they wrap.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}  # of norms, in BERT's first files
_ACTIVATIONS = (".act", "act_fn")  # their tensors may be called "beta", too


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        config: the config's class, with `from_json`, `to_json` and `tensor_names`.
        model: the Linen class.
        heads: the transformers classes whose files can be read -> our names for their heads. If several classes have
            the same head, files are written for the first of them.
        buffers: names of buffers in old files, without `TensorNames.prefix`. Buffers are not parameters.
        body: the modules of the model without its head. A tensor outside them belongs to some head: a model with
            another head leaves it out, and the caller is told.
        bare: the head of files whose config.json names no architecture.
    """

    config: Any
    model: type[Transformer]
    heads: Mapping[str, str]
    buffers: re.Pattern
    body: frozenset[str]
    bare: str = "none"

    def today(self, name: str) -> str:
        """Today's form of a tensor's name in a file, without what wrappers put into it."""
        bare = _WRAPPERS.sub("", name)
        modules, dot, leaf = bare.rpartition(".")
        return bare if modules.endswith(_ACTIVATIONS) else f"{modules}{dot}{_OLD_LEAVES.get(leaf, leaf)}"

    def in_body(self, bare: str) -> bool:
        """Whether a tensor's name, without the prefix, is one of the body's."""
        return bare.partition(".")[0] in self.body


def _encoder(heads: Mapping[str, str]) -> Family:
    return Family(
        config=RobertaConfig,
        model=Roberta,
        heads=heads,
        buffers=re.compile(r"embeddings\.(position_ids|token_type_ids)"),
        body=frozenset({"embeddings", "encoder", "roberta", "bert"}),
    )


def _decoder(name: str, bare: str = "") -> Family:
    return Family(
        config=DecoderConfig,
        model=Decoder,
        heads={
            f"{name}ForCausalLM": "causal",
            f"{bare or name}ForSequenceClassification": "classification",
            f"{bare or name}Model": "none",
        },
        buffers=re.compile(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
        body=frozenset({"embed_tokens", "layers", "norm", "rotary_emb", "model"}),
        bare="causal",
    )


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        config=GPT2Config,
        model=GPT2,
        heads={"GPT2LMHeadModel": "causal"},
        buffers=re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"),
        body=frozenset({"wte", "wpe", "h", "ln_f", "transformer"}),
    ),
    "roberta": _encoder(
        {
            "RobertaModel": "none",
            "RobertaForMaskedLM": "mlm",
            "RobertaForCausalLM": "mlm",  # the same, unless config.json says is_decoder
            "RobertaForSequenceClassification": "classification",
        },
    ),
    "bert": _encoder(
        {
            "BertModel": "none",
            "BertForMaskedLM": "mlm",
            "BertLMHeadModel": "mlm",
            "BertForPreTraining": "mlm",
            "BertForSequenceClassification": "classification",
        },
    ),
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral"),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3"),
    "gemma2": _decoder("Gemma2"),
    "gemma3_text": _decoder("Gemma3", "Gemma3Text"),
    "smollm3": _decoder("SmolLM3"),
    "phi3": _decoder("Phi3"),
}
"""Every family by the `model_type` of config.json."""
