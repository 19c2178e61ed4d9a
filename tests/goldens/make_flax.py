"""Writes flax.zip, golden folders of Flax weights, with the Flax classes of transformers 4.57.6. Run by hand:

    .venv-oldest/bin/python tests/goldens/make_flax.py

Each folder is what `save_pretrained` wrote, with random weights, and golden.safetensors: the inputs, and the `logits`,
or `hidden` where the class has no head, that transformers computed.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np
from archives import HERE, pack
from safetensors.numpy import save_file
from transformers import (
    BertConfig,
    FlaxBertModel,
    FlaxGPT2LMHeadModel,
    FlaxRobertaForMaskedLM,
    FlaxRobertaForSequenceClassification,
    GPT2Config,
    RobertaConfig,
)

OUTPUT = Path(tempfile.mkdtemp())
GPT2 = GPT2Config(vocab_size=23, n_positions=12, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
ENCODER = {
    "vocab_size": 23,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 14,
}
LABELS = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}}


def write(name: str, cls, config, seed: int, **how) -> None:
    folder, random = OUTPUT / name, np.random.default_rng(seed)
    model = cls(config, seed=seed)

    def draw(path, leaf):
        return (float(path[-1].key == "scale") + 0.3 * random.normal(size=leaf.shape)).astype(np.float32)

    model.params = jax.tree_util.tree_map_with_path(draw, model.params)
    mask = np.arange(9) < np.array([[9], [4]])
    pad = config.pad_token_id or 0
    inputs = {
        "input_ids": np.where(mask, random.integers(3, config.vocab_size, mask.shape), pad),
        "attention_mask": mask.astype(np.int64),
    }
    outputs = model(**inputs)
    kind = "logits" if "logits" in outputs else "hidden"
    model.save_pretrained(folder, **how)
    (folder / "generation_config.json").unlink(missing_ok=True)
    result = outputs["logits"] if kind == "logits" else outputs["last_hidden_state"]
    save_file({**inputs, kind: np.asarray(result)}, folder / "golden.safetensors")


if __name__ == "__main__":
    write("flax_gpt2", FlaxGPT2LMHeadModel, GPT2, 0)
    write("flax_gpt2_sharded", FlaxGPT2LMHeadModel, GPT2, 1, max_shard_size="2KB")
    write("flax_bert", FlaxBertModel, BertConfig(**ENCODER), 2)
    mlm = RobertaConfig(**ENCODER, type_vocab_size=1)
    write("flax_roberta_mlm", FlaxRobertaForMaskedLM, mlm, 3)
    write("flax_roberta_mlm_safetensors", FlaxRobertaForMaskedLM, mlm, 5, safe_serialization=True)
    classification = RobertaConfig(**ENCODER, **LABELS, type_vocab_size=1)
    write("flax_roberta_classification", FlaxRobertaForSequenceClassification, classification, 4)
    pack(OUTPUT, HERE / "flax.zip")
