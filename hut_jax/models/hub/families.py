"""The families of models that can be loaded: the classes of each, its heads, and the names found in its old files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig
from hut_jax.models.transformer import Transformer

_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        config: the config's class, with `from_json`, `to_json` and `tensor_names`.
        model: the Linen class.
        heads: the transformers classes whose files can be read -> our names for their heads. If several classes have
            the same head, files are written for the first of them.
        buffers: names of buffers in old files, without `TensorNames.prefix`. Buffers are not parameters.
        other_heads: names of tensors of the heads, without the prefix. A model with another head leaves them out, and
            the caller is told.
        old_endings: the endings of names in old files -> their endings today.
    """

    config: Any
    model: type[Transformer]
    heads: Mapping[str, str]
    buffers: re.Pattern
    other_heads: re.Pattern = _NOTHING
    old_endings: Mapping[str, str] = field(default_factory=dict)

    def today(self, name: str) -> str:
        """Today's form of a tensor's name in a file."""
        for old, new in self.old_endings.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name


def _encoder(heads: Mapping[str, str]) -> Family:
    return Family(
        config=RobertaConfig,
        model=Roberta,
        heads=heads,
        buffers=re.compile(r"embeddings\.(position_ids|token_type_ids)"),
        other_heads=re.compile(r"(pooler|classifier|lm_head|cls|qa_outputs)\..*"),
        old_endings={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    )


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        config=GPT2Config,
        model=GPT2,
        heads={"GPT2LMHeadModel": "causal"},
        buffers=re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"),
    ),
    "roberta": _encoder(
        {
            "RobertaModel": "none",
            "RobertaForMaskedLM": "mlm",
            "RobertaForSequenceClassification": "classification",
        },
    ),
    "bert": _encoder(
        {
            "BertModel": "none",
            "BertForMaskedLM": "mlm",
            "BertForPreTraining": "mlm",
            "BertForSequenceClassification": "classification",
        },
    ),
}
"""Every family by the `model_type` of config.json."""
