"""Writes encoders.zip, the golden RoBERTa and BERT folders, with PyTorch and transformers. Run by hand:

    python tests/goldens/make_roberta.py

Each folder is a small Hugging Face checkpoint with random weights, and golden.safetensors: `input_ids`,
`attention_mask`, `token_type_ids` and `position_ids` where they were given, and what transformers computed: `hidden`,
and `logits` or, where the class has no head, `pooled`.
"""

import tempfile
from pathlib import Path

import torch
from archives import HERE, pack
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)

OUTPUT = Path(tempfile.mkdtemp())
SMALL = {
    "vocab_size": 29,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
}


def random_model(seed: int, cls, **config):
    """Every parameter random, biases and norms too, so that none can go unnoticed."""
    torch.manual_seed(seed)
    config_class = BertConfig if cls.__name__.startswith("Bert") else RobertaConfig
    model = cls(config_class(**{**SMALL, **config})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn_like(parameter)
            norm = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + noise if norm else noise)
    return model


def write(name: str, model, *, lengths, first: list[int] | None = None, positions: bool = False, shard: bool = False):
    """`first`: how many tokens of each row are of the pair's first text."""
    folder = OUTPUT / name
    config, longest = model.config, max(lengths)
    places, counts = torch.arange(longest)[None], torch.tensor(lengths)[:, None]
    mask = places < counts
    ids = torch.randint(3, config.vocab_size, mask.shape).where(mask, torch.tensor(config.pad_token_id))
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if first is not None:
        inputs["token_type_ids"] = (mask & (places >= torch.tensor(first)[:, None])).long()
    if positions:
        inputs["position_ids"] = (places + 3).expand(mask.shape).contiguous()
    with torch.no_grad():
        body = getattr(model, config.model_type, model)
        outputs = {"hidden": body(**inputs).last_hidden_state}
        if body is model:
            outputs["pooled"] = model(**inputs).pooler_output
        else:
            outputs["logits"] = model(**inputs).logits
    model.save_pretrained(folder, **({"max_shard_size": "8KB"} if shard else {}))
    save_file({**inputs, **outputs}, folder / "golden.safetensors")


def as_first_released(folder: Path) -> None:
    """BERT's first files call a norm's scale and bias gamma and beta, and keep a buffer as a tensor."""
    state = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        state[old] = tensor
    state["bert.embeddings.position_ids"] = torch.arange(SMALL["max_position_embeddings"])[None]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    write("roberta_odd", random_model(0, RobertaModel, hidden_size=15, num_attention_heads=5), lengths=[13, 12])
    write("roberta_mlm", random_model(1, RobertaForMaskedLM, type_vocab_size=1), lengths=[9, 4, 1])
    three = {"id2label": {0: "entailment", 1: "neutral", 2: "contradiction"}, "layer_norm_eps": 1e-5}
    write("roberta_classification", random_model(2, RobertaForSequenceClassification, **three), lengths=[3, 10, 7])
    variant = {"tie_word_embeddings": False, "hidden_act": "relu", "pad_token_id": 3}
    write("roberta_untied", random_model(3, RobertaForMaskedLM, **variant), lengths=[8, 5], positions=True)
    write("bert_bare", random_model(4, BertModel, num_hidden_layers=3), lengths=[11], first=[6], shard=True)
    write("bert_mlm", random_model(5, BertForMaskedLM, hidden_act="gelu_new"), lengths=[6, 5, 2], first=[3, 2, 2])
    as_first_released(OUTPUT / "bert_mlm")
    one = {"num_labels": 1, "problem_type": "regression"}
    pairs = {"lengths": [7, 4, 2, 5], "first": [4, 2, 1, 3]}
    write("bert_classification", random_model(6, BertForSequenceClassification, **one), **pairs)


if __name__ == "__main__":
    main()
    pack(OUTPUT, HERE / "encoders.zip")
