"""GLUE: one label, or one value, for a sentence or a pair of sentences (Wang et al., arXiv 1804.07461, 2018)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hut_jax.core.assets import here
from hut_jax.core.errors import UserError
from hut_jax.data.batching import Examples
from hut_jax.data.glue.dataset import encode_glue, load_glue
from hut_jax.data.glue.predictions import write_predictions
from hut_jax.data.glue.tasks import GlueTask
from hut_jax.data.glue.tsv import GlueExample
from hut_jax.data.loss import Evaluated, Loss
from hut_jax.data.tokenizer import Tokenizer, load_tokenizer
from hut_jax.metrics.glue import glue_scores
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.hub.heads import Head
from hut_jax.tasks.base import Example, PredictsLabels, TaskData
from hut_jax.tasks.config import GlueData
from hut_jax.tasks.cross_entropy import cross_entropy


class Glue(PredictsLabels):
    """A task of GLUE, from the files in `config.data.dir` or from TFDS.

    Args:
        spec: the task's files, columns, labels and metrics.
    """

    score_name = "score"
    maximize = True
    data_section = GlueData

    def __init__(self, spec: GlueTask):
        self.name, self.spec = spec.name, spec

    @property
    def head(self) -> Head:
        """A class for each label, or one value for a regression."""
        problem = "regression" if self.spec.regression else "single_label_classification"
        return Head("classification", labels=self.spec.labels or ("score",), problem_type=problem)

    def load_tokenizer(self, source: str, model: Any) -> Tokenizer:
        """An encoder's, with the special tokens that frame a text or a pair; a decoder's, which needs none of these.

        A decoder's tokenizer that has no token for padding pads with its end token.
        """
        if not isinstance(model, DecoderConfig):
            return load_tokenizer(source, "cls", "sep", "pad")
        tokenizer = load_tokenizer(source)
        tokenizer.pad_with_end()
        return tokenizer

    def load_data(self, data: GlueData, tokenizer: Tokenizer) -> TaskData:
        """The training split and the validation splits. MNLI has two validation splits."""
        records = load_glue(self.spec, here(data.dir), cache_dir=data.cache, tests=False)
        if data.max_examples:
            records.splits["train"] = records.splits["train"][: data.max_examples]
        encoded = {
            split: encode_glue(self.spec, records.splits[split], tokenizer, data.max_length)
            for split in ("train", *self.spec.validation)
        }
        cut = sum(count for _, count in encoded.values())
        validation = {split: encoded[split][0] for split in self.spec.validation}
        return TaskData(encoded["train"][0], validation, records.notes + data.cut_notes(cut))

    def loss(self, tokenizer: Tokenizer, label_smoothing: float = 0.0) -> Loss:
        """The cross-entropy in nats, or the squared error of a regression, summed over the examples."""
        return self._loss(label_smoothing)

    def metrics(self, evaluated: Mapping[str, Evaluated]) -> dict[str, float]:
        """GLUE's own metrics and their mean, the `score`; the loss is that of the first split.

        MNLI has two splits, each with its own accuracy. The score is the accuracy on both together, as in the papers on
        adapters for RoBERTa.
        """
        pairs = {split: _real(evaluated[split].outputs) for split in self.spec.validation}
        return {"loss": evaluated[self.spec.validation[0]].loss, **self._scores(pairs)}

    def example(self, config: Any, rows: int, length: int, label_smoothing: float = 0.0) -> Example:
        """A batch of examples with one label each."""
        ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
        mask = jax.ShapeDtypeStruct((rows, length), jnp.bool_)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids}
        labels = jax.ShapeDtypeStruct((rows,), jnp.float32 if self.spec.regression else jnp.int32)
        weights = jax.ShapeDtypeStruct((rows,), jnp.float32)
        return Example(inputs, inputs | {"labels": labels, "weights": weights}, self._loss(label_smoothing))

    @property
    def text_names(self) -> Sequence[Sequence[str]]:
        """The column of each text in the official files, and its name in TFDS."""
        return list(self.spec.texts.items())

    def load_splits(self, data: GlueData, kind: str) -> Mapping[str, Sequence[GlueExample]]:
        """The test splits that the data has, or the validation splits. MNLI has two of both.

        Raises:
            UserError: the data is missing or malformed, or has no such split.
        """
        test = kind == "test"
        records = load_glue(self.spec, here(data.dir), cache_dir=data.cache, tests=test)
        wanted = self.spec.submission if test else self.spec.validation
        splits = {split: records.splits[split] for split in wanted if split in records.splits}
        if not splits:
            files = " or ".join(f"{self.spec.folder}/{self.spec.files[split]}" for split in wanted)
            raise UserError(f"{data.dir} has no {kind} file of {self.name}: {files}")
        return splits

    def encode(self, texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer, data: GlueData) -> tuple[Examples, int]:
        """The texts as tokens for the model, cut to `data.max_length`, and the number of those that were cut."""
        records = [GlueExample(each, None, row) for row, each in enumerate(texts)]
        return encode_glue(self.spec, records, tokenizer, data.max_length)

    def predict(self, apply: Callable[..., Array], batch: Mapping[str, Array]) -> Array:
        """A class, or the value of a regression, for each row of a batch: `[rows]`."""
        logits = _logits(apply, batch)
        return logits[:, 0] if self.spec.regression else jnp.argmax(logits, axis=-1)

    def label(self, prediction: int | float) -> str | float:
        """The name of a predicted class, as in TFDS and on Hugging Face, or the predicted value."""
        return round(float(prediction), 6) if self.spec.regression else self.spec.labels[int(prediction)]

    def score_predictions(
        self, splits: Mapping[str, Sequence[GlueExample]], predictions: Mapping[str, Sequence[int] | Sequence[float]]
    ) -> dict[str, float]:
        """GLUE's metrics of predictions for the validation splits, as `metrics` has them without the loss."""
        labels = {split: np.array([record.label for record in records]) for split, records in splits.items()}
        return self._scores({split: (np.array(predictions[split]), labels[split]) for split in splits})

    def write_predictions(
        self,
        folder: str | Path,
        split: str,
        records: Sequence[GlueExample],
        predictions: Sequence[int] | Sequence[float],
    ) -> Path:
        """Write a test split's file under the name that the server wants (`MRPC.tsv`); else `MRPC-validation.tsv`."""
        spec = self.spec
        if split in spec.validation:
            spec = replace(spec, submission={split: f"{spec.folder}-{split}.tsv"})
        return write_predictions(folder, spec, split, records, predictions)

    def _scores(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """The metrics of each split's predictions and labels, and the score."""
        if len(pairs) == 1:
            return glue_scores(self.spec.metrics, *next(iter(pairs.values())))
        scores = {
            f"{split.removeprefix('validation_')}_accuracy": glue_scores(self.spec.metrics, *pair)["accuracy"]
            for split, pair in pairs.items()
        }
        together = [np.concatenate(side) for side in zip(*pairs.values(), strict=True)]
        return {**scores, "score": glue_scores(self.spec.metrics, *together)["score"]}

    def _loss(self, label_smoothing: float) -> Loss:
        if not self.spec.regression:
            return partial(classification_loss, label_smoothing=label_smoothing)
        if label_smoothing:
            raise UserError(
                f"config.train.label_smoothing is for classes, and {self.name} is a regression; set it to 0"
            )
        return regression_loss


def classification_loss(
    apply: Callable[..., Array], batch: Mapping[str, Array], *, label_smoothing: float = 0.0, **kwargs: Any
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
    """The summed cross-entropy of a batch, the number of its examples, and their predicted classes.

    Args:
        apply: the model, which takes the batch's tokens, mask and token types, and `kwargs`.
        batch: a batch of `hut_jax.data.labelled_texts`.
        label_smoothing: the share of probability spread over the classes.
        **kwargs: the model's arguments, such as `deterministic` and `rngs`.
    """
    logits = _logits(apply, batch, **kwargs)
    losses = cross_entropy(logits, batch["labels"], label_smoothing)
    return _summed(losses, batch, jnp.argmax(logits, axis=-1))


def regression_loss(
    apply: Callable[..., Array], batch: Mapping[str, Array], **kwargs: Any
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
    """The summed squared error of a batch, the number of its examples, and their predicted values.

    Its arguments are those of `classification_loss`, without the smoothing.
    """
    values = _logits(apply, batch, **kwargs)[:, 0]
    return _summed((values - batch["labels"]) ** 2, batch, values)


def _logits(apply: Callable[..., Array], batch: Mapping[str, Array], **kwargs: Any) -> Array:
    types = batch["token_type_ids"]
    return apply(batch["input_ids"], batch["attention_mask"], token_type_ids=types, **kwargs)


def _summed(losses: Array, batch: Mapping[str, Array], predictions: Array) -> tuple[Array, Array, dict[str, Array]]:
    weights = batch["weights"]
    outputs = {"predictions": predictions, "labels": batch["labels"], "weights": weights}
    return jnp.sum(losses * weights), jnp.sum(weights), outputs


def _real(outputs: list[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The predictions and labels of the examples, without the empty rows of a batch."""
    joined = {name: np.concatenate([batch[name] for batch in outputs]) for name in outputs[0]}
    real = joined["weights"] > 0
    return joined["predictions"][real], joined["labels"][real]
