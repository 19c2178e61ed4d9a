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

_FAMILIES = {"bert": "Bert", "roberta": "Roberta"}
_CLASSES = {"none": "Model", "mlm": "ForMaskedLM", "classification": "ForSequenceClassification"}
_HEAD, _OUTPUT = "classifier/", "classifier/out/"  # the output layer has as many outputs as there are labels
_GPT2_CLASSIFIER = "score."


def auto_mapping(config: Any) -> dict[str, str] | None:
    """The class by which PEFT's `AutoPeftModel` finds the base where there is no task; None if it is not known.

    Args:
        config: of the model.
    """
    kind = config.model_type
    if kind not in _FAMILIES or config.head not in _CLASSES:
        return None
    name = _FAMILIES[kind] + _CLASSES[config.head]
    return {"base_model_class": name, "parent_library": f"transformers.models.{kind}.modeling_{kind}"}


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
            "the adapter is for GPT2ForSequenceClassification, and this library has no classification head for GPT-2"
        )
    if config.model_type not in _FAMILIES:
        return
    prefix = config.tensor_names().prefix
    tensors = {name.removeprefix(prefix): tensor for name, tensor in whole.items()}
    needed = {*tensors, *(f"{module}.weight".removeprefix(prefix) for module in adapted)}
    foreign = needed - _paths(config, config.head).keys()
    knowing = [head for head in _CLASSES if foreign <= _paths(config, head).keys()]
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

    Of a head the whole is saved, there and by us, whether all of it was trained or not.

    Args:
        parts: deviations from the base.
    """
    changed = {part.path.rpartition("/")[0] for part in parts if part.factors["d"].any()}
    return [part for part in parts if part.path.rpartition("/")[0] in changed or not part.path.startswith(_HEAD)]


def _paths(config: Any, head: str) -> dict[str, str]:
    """The name of each tensor of the model with a head, without the body's prefix -> the path of our parameter."""
    names = dataclasses.replace(config, head=head).tensor_names()
    paths = {names.bare(tensor.name): tensor.paths[0] for tensor in names.tensors}
    paths |= {names.bare(tensor.also): tensor.paths[0] for tensor in names.tensors if tensor.also}
    return paths | {names.bare(name): paths[names.bare(other)] for name, other in names.tied.items()}
