"""GGUF files for tests, written with the package gguf as llama.cpp's converter writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAIRED, ONE_MORE = ("llama", "smollm3"), ("gemma2", "gemma3")
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def import_gguf():
    """The package gguf; without it the test is skipped."""
    return pytest.importorskip("gguf")


def write_file(path, architecture, fields, tensors, kinds=None):
    """Write a file.

    Args:
        path: of the file.
        architecture: llama.cpp's name.
        fields: the metadata; names with a dot in front are whole, others are of the architecture.
        tensors: by llama.cpp's names.
        kinds: the names of the types of tensors that are quantised, such as "Q8_0"; bytes are taken as they are.
    """
    gguf = import_gguf()
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        key = name[1:] if name.startswith(".") else f"{architecture}.{name}"
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(key, value)
    for name, tensor in tensors.items():
        kind = getattr(gguf.GGMLQuantizationType, (kinds or {}).get(name, "F32"))
        raw = tensor if tensor.dtype == np.uint8 else gguf.quantize(np.ascontiguousarray(tensor, np.float32), kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind, rows, width, scale):
    """Rows of a type that the package cannot quantise: random blocks, whose scales are this small."""
    gguf = import_gguf()
    items, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (rows, width // items, size), np.uint8)
    halves = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82), "Q3_K": (108,)}[kind.name]
    for at in halves:
        raw[..., at : at + 2] = np.float16([scale]).view(np.uint8)
    return raw.reshape(rows, -1)


def converted(architecture, tensors, layers, heads, kv_heads):
    """Hugging Face's tensors as llama.cpp has them: other names, rotary rows paired, Gemma's norms plus one."""
    gguf = import_gguf()
    (number,) = [number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture]
    names = gguf.get_tensor_name_map(number, layers)
    found = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if architecture in PAIRED and module.endswith(("q_proj", "k_proj")):
            count = heads if module.endswith("q_proj") else kv_heads
            halves = tensor.reshape(count, 2, -1, *tensor.shape[1:])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        if architecture in ONE_MORE and name.endswith("norm.weight"):
            tensor = tensor + np.float32(1)
        if architecture == "gpt2" and name.endswith(TRANSPOSED):
            tensor = tensor.T
        found[f"{names.get_name(module)}.{leaf}"] = tensor
    return found


def tiny_tokenizer(**fields):
    """The metadata of the embedded tokenizer, GPT-2's kind with 2048 tokens, and other fields."""
    vocab = json.loads((ROOT / "assets/tiny/vocab.json").read_text())
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = (ROOT / "assets/tiny/merges.txt").read_text().splitlines()
    return {
        ".tokenizer.ggml.model": "gpt2",
        ".tokenizer.ggml.pre": "gpt-2",
        ".tokenizer.ggml.tokens": tokens,
        ".tokenizer.ggml.token_type": [3 if token == "<|endoftext|>" else 1 for token in tokens],
        ".tokenizer.ggml.merges": [merge for merge in merges if merge and not merge.startswith("#version")],
        ".tokenizer.ggml.eos_token_id": vocab["<|endoftext|>"],
        **fields,
    }
