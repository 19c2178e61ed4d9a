"""Writes decoders.zip, golden decoders, with PyTorch and transformers. Run by hand:

    python tests/goldens/make_decoder.py

Each folder is a small Hugging Face checkpoint with random weights, and golden.safetensors: `input_ids`,
`attention_mask`, and the `logits` that transformers computed. Half of the config.json files are as transformers 4 wrote
them.
"""

import json
import tempfile
from pathlib import Path

import torch
from archives import HERE, pack
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

OUTPUT = Path(tempfile.mkdtemp())
SMALL = {"vocab_size": 29, "hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
SMALL |= {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
LENGTH = 14


def write(name: str, family: str, *, pad: str = "right", auto=AutoModelForCausalLM, **fields) -> Path:
    """A model with every parameter random, norms too, so that none can go unnoticed."""
    torch.manual_seed(len(name))
    model = auto.from_config(AutoConfig.for_model(family, **SMALL | fields, attn_implementation="eager")).eval()
    with torch.no_grad():
        for leaf, parameter in model.named_parameters():
            norm = leaf.endswith("norm.weight") or "layernorm" in leaf
            parameter.copy_(float(norm and "gemma" not in family) + 0.3 * torch.randn_like(parameter))
    places, counts = torch.arange(LENGTH)[None], torch.tensor([[LENGTH], [4], [9]])
    mask = (places < counts) if pad == "right" else (places >= LENGTH - counts)
    ids = torch.randint(1, SMALL["vocab_size"], (3, LENGTH)) * mask
    with torch.no_grad():
        logits = model(ids, attention_mask=mask.long()).logits
    folder = OUTPUT / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    save_file({"input_ids": ids, "attention_mask": mask.long(), "logits": logits}, folder / "golden.safetensors")
    return folder


def as_transformers_4(folder: Path, **changes) -> None:
    """The config.json with the fields' older names; None takes a field out."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    ropes = config.pop("rope_parameters")
    if "full_attention" in ropes:
        config["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
        ropes = ropes["full_attention"]
    config["rope_theta"] = ropes.pop("rope_theta")
    ropes["type"] = ropes.pop("rope_type")
    config["rope_scaling"] = None if ropes["type"] == "default" else ropes
    config |= changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}, indent=2))


def main() -> None:
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3 |= {"rope_theta": 500.0, "original_max_position_embeddings": 16}
    as_transformers_4(write("llama", "llama", attention_bias=True, mlp_bias=True, rope_parameters=llama3))
    dynamic = {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 500.0}
    write("llama_dynamic", "llama", rope_parameters=dynamic, max_position_embeddings=9, tie_word_embeddings=True)
    write("mistral", "mistral", pad="left", sliding_window=5, head_dim=6)
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0, "original_max_position_embeddings": 16}
    sliding = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    as_transformers_4(write("qwen2", "qwen2", rope_parameters=yarn, **sliding), layer_types=None)
    write("qwen3", "qwen3", pad="left", head_dim=6, tie_word_embeddings=True)
    gemma = {"sliding_window": 5, "head_dim": 6, "query_pre_attn_scalar": 11}
    write("gemma2", "gemma2", attn_logit_softcapping=2.0, final_logit_softcapping=3.0, **gemma)
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    }
    gemma3 = write("gemma3_text", "gemma3_text", rope_parameters=ropes, sliding_window_pattern=2, **gemma)
    as_transformers_4(gemma3, layer_types=None, sliding_window_pattern=2)
    write("smollm3", "smollm3", no_rope_layer_interval=2, **sliding)
    longrope = {"rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    phi3 = {"rope_parameters": longrope | {"short_factor": [1.5], "long_factor": [3.0]}, "sliding_window": 7}
    as_transformers_4(
        write("phi3", "phi3", original_max_position_embeddings=8, **phi3),
        partial_rotary_factor=0.5,
        rope_scaling={"type": "longrope", "short_factor": [1.5], "long_factor": [3.0]},
    )
    write("classifier", "llama", auto=AutoModelForSequenceClassification, num_labels=3)


if __name__ == "__main__":
    main()
    pack(OUTPUT, HERE / "decoders.zip")
