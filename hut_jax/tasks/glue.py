"""GLUE: one label, or one value, for a sentence or a pair of them (Wang et al., arXiv 1804.07461, 2018)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from hut_jax.core.errors import UserError
from hut_jax.data.encoder_tokenizer import EncoderTokenizer
from hut_jax.data.glue.dataset import encode_glue, load_glue
from hut_jax.data.glue.tasks import GLUE_TASKS, GlueTask
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.metrics.glue import glue_scores
from hut_jax.tasks.base import Kind, Task
from hut_jax.tasks.vocabulary import cross_entropy


def kind(task: GlueTask) -> Kind:
    """The task's data and the head that it wants: a class for each label, or for regression one value."""
    problem = "regression" if task.regression else "single_label_classification"
    labels = task.labels or ("score",)
    return Kind(partial(load, task), {"head": "classification", "labels": labels, "problem_type": problem})


def load(task: GlueTask, config: ConfigDict, tokenizer: BaseTokenizer) -> Task:
    """The task on `config.data.dir`'s files, or on TFDS' where it is empty.

    Raises:
        UserError: the data is missing or malformed, the tokenizer is no encoder's, or labels of a regression are to
            be smoothed.
    """
    if not isinstance(tokenizer, EncoderTokenizer):
        raise UserError(f"{task.name} wants RoBERTa's or BERT's tokenizer and model; see config.model")
    if task.regression and config.train.label_smoothing:
        raise UserError(f"config.train.label_smoothing is for classes, and {task.name} is a regression; set it to 0")
    data = load_glue(task, config.data.dir, cache_dir=config.data.cache, tests=False)
    if config.data.max_examples:
        data.splits["train"] = data.splits["train"][: config.data.max_examples]
    encoded = {
        split: encode_glue(task, data.splits[split], tokenizer, config.data.max_length)
        for split in ("train", *task.validation)
    }
    cut = sum(split.truncated for split in encoded.values())
    notes = (f"{cut} examples were cut to config.data.max_length, {config.data.max_length} tokens",) if cut else ()
    return Task(
        encoded["train"].examples,
        {split: encoded[split].examples for split in task.validation},
        regression_loss if task.regression else classification_loss,
        partial(metrics, task),
        headline="headline",
        maximize=True,
        notes=data.notes + notes,
    )


def classification_loss(
    apply: Callable[..., Array], batch: Mapping[str, Array], *, label_smoothing: float = 0.0, **kwargs: Any
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
    """The summed cross-entropy of a batch, the number of its examples, and their predicted classes.

    Args:
        apply: the model, which takes the batch's tokens, mask and token types, and `kwargs`.
        batch: as `hut_jax.data.labelled_texts` makes them.
        label_smoothing: the share of probability spread over the classes.
        **kwargs: the model's, such as `deterministic` and `rngs`.
    """
    logits = _logits(apply, batch, kwargs)
    losses = cross_entropy(logits, batch["labels"], label_smoothing)
    return _summed(losses, batch, jnp.argmax(logits, axis=-1))


def regression_loss(
    apply: Callable[..., Array], batch: Mapping[str, Array], *, label_smoothing: float = 0.0, **kwargs: Any
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
    """The summed squared error of a batch, the number of its examples, and their predicted values.

    The arguments are those of `classification_loss`; there is nothing to smooth.
    """
    values = _logits(apply, batch, kwargs)[:, 0]
    return _summed((values - batch["labels"]) ** 2, batch, values)


def metrics(task: GlueTask, judged: Mapping[str, Any]) -> dict[str, float]:
    """GLUE's own metrics and their mean, the `headline`; the loss is that of the first split.

    MNLI has two splits: each has its accuracy, and the headline is the share that is right of both together, which
    is what the tables of RoBERTa's adapters give.
    """
    pairs = {split: _real(judged[split].outputs) for split in task.validation}
    first = task.validation[0]
    if len(pairs) == 1:
        return {"loss": judged[first].loss, **glue_scores(task.metrics, *pairs[first])}
    scores = {
        f"{split.removeprefix('validation_')}_accuracy": glue_scores(task.metrics, *pair)["accuracy"]
        for split, pair in pairs.items()
    }
    everything = [np.concatenate(side) for side in zip(*pairs.values(), strict=True)]
    return {"loss": judged[first].loss, **scores, "headline": glue_scores(task.metrics, *everything)["headline"]}


def predict(task: GlueTask, apply: Callable[..., Array], batch: Mapping[str, Array]) -> Array:
    """A class, or for regression a value, for each row of a batch: `[rows]`."""
    logits = _logits(apply, batch, {})
    return logits[:, 0] if task.regression else jnp.argmax(logits, axis=-1)


def _logits(apply: Callable[..., Array], batch: Mapping[str, Array], kwargs: Mapping[str, Any]) -> Array:
    types = batch["token_type_ids"]
    return apply(batch["input_ids"], batch["attention_mask"], token_type_ids=types, **kwargs)


def _summed(losses: Array, batch: Mapping[str, Array], predictions: Array) -> tuple[Array, Array, dict[str, Array]]:
    weights = batch["weights"]
    outputs = {"predictions": predictions, "labels": batch["labels"], "weights": weights}
    return jnp.sum(losses * weights), jnp.sum(weights), outputs


def _real(outputs: list[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of the examples, without the rows that only fill a batch up."""
    joined = {name: np.concatenate([batch[name] for batch in outputs]) for name in outputs[0]}
    real = joined["weights"] > 0
    return joined["predictions"][real], joined["labels"][real]


KINDS = {name: kind(task) for name, task in GLUE_TASKS.items()}
"""Every task of GLUE by its name."""
