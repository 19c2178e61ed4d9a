"""Writes gpt2.zip, the golden GPT-2 folders, with PyTorch and transformers. Run by hand:

    python tests/goldens/make_gpt2.py

Each folder is a small Hugging Face checkpoint with random weights, and golden.safetensors: `input_ids`,
`attention_mask`, `position_ids` where they were given, and the `logits` that transformers computed.
"""

import tempfile
from pathlib import Path

import torch
from archives import HERE, pack
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

OUTPUT = Path(tempfile.mkdtemp())
SMALL = {"vocab_size": 29, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3}


def random_model(seed: int, **config) -> GPT2LMHeadModel:
    """Every parameter random, biases and norms too, so that none can go unnoticed."""
    torch.manual_seed(seed)
    config = {"bos_token_id": 0, "eos_token_id": 0, **config}
    model = GPT2LMHeadModel(GPT2Config(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn_like(parameter)
            parameter.copy_(1 + noise if "ln_" in name and name.endswith("weight") else noise)
    return model


def write(name: str, model: GPT2LMHeadModel, *, lengths, pad: str = "right", positions: bool = False, **how) -> None:
    folder = OUTPUT / name
    longest = max(lengths)
    ids = torch.randint(0, model.config.vocab_size, (len(lengths), longest))
    places = torch.arange(longest)[None]
    counts = torch.tensor(lengths)[:, None]
    mask = (places < counts) if pad == "right" else (places >= longest - counts)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if positions:
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(**inputs).logits
    model.save_pretrained(folder, **how)
    (folder / "generation_config.json").unlink()
    save_file({**inputs, "logits": logits}, folder / "golden.safetensors")


def as_first_released(folder: Path, model: GPT2LMHeadModel) -> None:
    """Names and buffers as in the files OpenAI's weights were first converted to: no prefix, masks as tensors."""
    state = {name: tensor.contiguous() for name, tensor in model.transformer.state_dict().items()}
    n = model.config.n_positions
    for i in range(model.config.n_layer):
        state[f"h.{i}.attn.bias"] = torch.tril(torch.ones(1, 1, n, n))
        state[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    odd = {"vocab_size": 31, "n_positions": 13, "n_embd": 15, "n_layer": 3, "n_head": 5}
    write("gpt2_odd", random_model(0, **odd), lengths=[13])

    first = random_model(1, **SMALL)
    write("gpt2_right_padded", first, lengths=[9, 4, 1])
    as_first_released(OUTPUT / "gpt2_right_padded", first)

    write("gpt2_left_padded", random_model(2, **SMALL), lengths=[3, 10, 7], pad="left")
    write("gpt2_left_padded_positions", random_model(3, **SMALL), lengths=[3, 10, 7], pad="left", positions=True)
    write("gpt2_sharded", random_model(4, **SMALL), lengths=[6, 5], max_shard_size="4KB")
    variant = {"activation_function": "gelu", "n_inner": 21, "scale_attn_by_inverse_layer_idx": True}
    write("gpt2_variant", random_model(5, **{**SMALL, "n_layer": 3}, **variant), lengths=[8, 5])
    untied = {"tie_word_embeddings": False, "activation_function": "relu", "scale_attn_weights": False}
    write("gpt2_untied", random_model(6, **SMALL, **untied), lengths=[8, 5])


if __name__ == "__main__":
    main()
    pack(OUTPUT, HERE / "gpt2.zip")
