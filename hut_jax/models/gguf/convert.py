"""A GGUF file as a folder in Hugging Face's layout."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.core.files import replacing_all, stream_tensors
from hut_jax.models.gguf.config import read_config
from hut_jax.models.gguf.fields import Fields
from hut_jax.models.gguf.header import read_header
from hut_jax.models.gguf.tensors import Tensors
from hut_jax.models.gguf.tokenizer import read_tokenizer

DTYPES = ("float32", "bfloat16", "float16")


class Converted(NamedTuple):
    """What was written.

    Attributes:
        model_type: of config.json.
        parameters: in model.safetensors.
        tokens: of the tokenizer; 0 without one.
    """

    model_type: str
    parameters: int
    tokens: int


def convert_gguf(
    file: str | os.PathLike, folder: str | os.PathLike, *, dtype: str = "float32", tokenizer: bool = True
) -> Converted:
    """Write what a GGUF file holds as config.json, model.safetensors and a tokenizer's files.

    The files appear whole or not at all, and are the same, to the bit, each time. One tensor is in memory at a time.

    Args:
        file: the GGUF file, as llama.cpp's converter and `llama-quantize` write it.
        folder: where the files go; it is made if it does not exist.
        dtype: of the tensors. float32 holds those of every GGUF file as they are; the others round.
        tokenizer: whether to write the tokenizer, too.

    Raises:
        UserError: the file is damaged or holds something that is not supported, the package gguf is needed and
            missing, or the folder cannot be written.
    """
    if dtype not in DTYPES:
        raise UserError(f"no dtype {dtype!r} here; take one of {', '.join(DTYPES)}")
    path, folder = Path(file).expanduser(), Path(folder).expanduser()
    if not path.is_file():
        raise UserError(f"no file {path}")
    fields = Fields(read_header(path))
    parts = fields.whole(".split.count", 1, least=0)
    if parts > 1:
        raise fields.error(f"one of {parts} parts of a model; join them with llama.cpp's llama-gguf-split --merge")
    tensors = Tensors(fields)
    values = read_config(fields, tensors)
    made = read_tokenizer(fields) if tokenizer else None

    kind = jnp.dtype(dtype)

    def read(name: str) -> np.ndarray:
        with np.errstate(over="ignore"):
            whole = tensors[name].astype(kind)
        if not np.isfinite(whole).all():
            raise fields.error(f"{name} has entries that are not finite in {dtype}")
        return whole

    names = ["model.safetensors", "config.json", *(["tokenizer.json", "tokenizer_config.json"] if made else [])]
    texts = [json.dumps({**values, "dtype": dtype}, indent=2, sort_keys=True)]
    if made:
        texts += [made[0].to_str(pretty=True), json.dumps(made[1], indent=2)]
    try:
        with replacing_all(folder, names) as (weights, *others):
            stream_tensors(weights, tensors.shapes, kind, read, {"format": "pt"})
            for new, text in zip(others, texts, strict=True):
                new.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"the model could not be written to {folder}: {error.strerror}") from error
    return Converted(
        values["model_type"],
        sum(int(np.prod(shape)) for shape in tensors.shapes.values()),
        made[0].get_vocab_size() if made else 0,
    )
