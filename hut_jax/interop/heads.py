"""The heads that PEFT's tasks know: their classes in transformers, and tensors of another head than the model's."""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.interop.methods.base import Part

TASKS: Mapping[str, str | None] = {
    "causal": "CAUSAL_LM",
    "none": "FEATURE_EXTRACTION",
    "classification": "SEQ_CLS",
    "mlm": None,
}
"""PEFT's task for each of our heads."""

_ENCODERS = {"bert": "Bert", "roberta": "Roberta"}
_DECODERS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2"}
_DECODERS |= {"gemma3_text": "Gemma3Text", "smollm3": "SmolLM3", "phi3": "Phi3"}
_OF_ENCODERS = {"none": "Model", "mlm": "ForMaskedLM", "classification": "ForSequenceClassification"}
_OF_DECODERS = {"causal": "ForCausalLM", "classification": "ForSequenceClassification", "none": "Model"}
_HEAD, _OUTPUT = "classifier/", "classifier/out/"  # the output layer has as many outputs as there are labels
_GPT2_CLASSIFIER = "score."


def auto_mapping(config: Any) -> dict[str, str] | None:
    """The class by which PEFT's `AutoPeftModel` finds the base where there is no task; None if it is not known.

    Args:
        config: of the model.
    """
    kind = config.model_type
    families, classes = _classes(kind)
    if kind not in families or config.head not in classes:
        return None
    folder = kind.removesuffix("_text")
    library = f"transformers.models.{folder}.modeling_{folder}"
    return {"base_model_class": families[kind] + classes[config.head], "parent_library": library}


def check_head(whole: Mapping[str, np.ndarray], adapted: Set[str], config: Any) -> None:
    """Check that an adapter does not need another head than the model has, or one with another number of labels.

    Args:
        whole: the tensors that are no factors, by plain name.
        adapted: the modules that have factors.
        config: of the model.

    Raises:
        UserError: it does; the message says how to load the base.
    """
    if config.model_type == "gpt2" and any(name.startswith(_GPT2_CLASSIFIER) for name in whole):
        raise UserError(
            "the adapter is for GPT2ForSequenceClassification, and this library has no classification head for GPT-2; "
            "merge it in PEFT, merge_and_unload(), and run the merged model in transformers"
        )
    families, classes = _classes(config.model_type)
    if config.model_type not in families:
        return
    prefix = config.tensor_names().prefix
    tensors = {name.removeprefix(prefix): tensor for name, tensor in whole.items()}
    needed = {*tensors, *(f"{module}.weight".removeprefix(prefix) for module in adapted)}
    foreign = needed - _paths(config, config.head).keys()
    knowing = [head for head in classes if foreign <= _paths(config, head).keys()]
    head = config.head if not foreign else next(iter(knowing), None)
    if head is None:
        return  # a name that no head knows is refused where it is read
    known = _paths(config, head)
    sizes = {tensor.shape[:1] for name, tensor in tensors.items() if known.get(name, "").startswith(_OUTPUT)}
    labels = next(iter(sizes))[0] if len(sizes) == 1 and () not in sizes else None
    if head == config.head and labels in (None, len(config.labels)):
        return
    asked, wanted, has = repr(head), repr(head), repr(config.head)
    if labels is not None:
        asked = f"hut_jax.Head({head!r}, num_labels={labels})"
        wanted += f" with {labels} labels"
        has += f" with {len(config.labels)}" if head == config.head else ""
    raise UserError(
        f"the adapter is for head {wanted}, and the model has head {has}; "
        f"load the base with load_pretrained(base, head={asked})"
    )


def trained_only(parts: Sequence[Part]) -> list[Part]:
    """The parts without the layers of the classification head that are the base's.

    PEFT and `save_peft` save the whole head, trained or not.

    Args:
        parts: deviations from the base.
    """
    changed = {part.path.rpartition("/")[0] for part in parts if part.factors["d"].any()}
    return [part for part in parts if part.path.rpartition("/")[0] in changed or not part.path.startswith(_HEAD)]


def _classes(kind: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The beginnings of transformers' class names by `model_type`, and their ends by our head."""
    return (_DECODERS, _OF_DECODERS) if kind in _DECODERS else (_ENCODERS, _OF_ENCODERS)


def _paths(config: Any, head: str) -> dict[str, str]:
    """The name of each tensor of the model with a head, without the body's prefix -> the path of our parameter."""
    names = dataclasses.replace(config, head=head).tensor_names()
    paths = {names.bare(tensor.name): tensor.paths[0] for tensor in names.tensors}
    paths |= {names.bare(tensor.also): tensor.paths[0] for tensor in names.tensors if tensor.also}
    return paths | {names.bare(name): paths[names.bare(other)] for name, other in names.tied.items()}
