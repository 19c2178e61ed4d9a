"""The fields of a run: their defaults, their meaning and what they may be. A config file overrides them."""

import json
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hut_jax.core.errors import UserError, nearest
from hut_jax.generation.sampling import COLDEST
from hut_jax.models.attention import ATTENTION
from hut_jax.models.layers import REMAT
from hut_jax.transforms import TRANSFORMS, transform_fields

# What config.adapter holds beside the settings of the transformation that it names.
ADAPTER_FIELDS = ("targets", "exclude", "ranks", "layout", "also_train", "start")


def default_config() -> ConfigDict:
    """Every field with its default. It is locked: a misspelt field is an error where it is set."""
    config = ConfigDict()
    config.task = "e2e"  # what is learned: see hut_jax/tasks
    config.model = ""  # the base: a hub name, or a folder in Hugging Face's layout
    config.init = "pretrained"  # or "random": only the base's config.json is read, and the weights are drawn
    config.tokenizer = ""  # a hub name or a folder; empty: the base's own
    config.dtype = "float32"  # of the base and of what is computed with it; or "bfloat16". Factors are fp32
    config.seed = 0  # for factors, order of the data, dropout and random initialisation

    config.data = ConfigDict()
    config.data.dir = ""  # the folder of the task's files; empty: the public download, where there is one
    config.data.cache = ""  # where prepared data is kept; empty: TFDS' own folder
    config.data.max_length = 512  # tokens of an example; longer ones are cut, and counted
    config.data.length_multiple = 16  # batches are padded to a multiple of this many tokens: more, fewer compilations
    config.data.slot_multiple = 8  # and to a multiple of this many predicted tokens an example
    config.data.max_examples = 0  # learn from no more: GLUE from the first, E2E from so many evenly spread; 0: all
    config.data.text = ""  # language modelling: a UTF-8 text, plain or .xz
    config.data.max_bytes = 0  # language modelling: read no more of it than this; 0: all
    config.data.block = 256  # language modelling: tokens of a training example
    config.data.holdout = 0.01  # language modelling: the share of blocks kept for validation

    config.adapter = ConfigDict()
    config.adapter.name = ""  # the transformation; set_transform also adds its settings
    config.adapter.targets = ()  # patterns of paths; none: the transformation's own default, by the model's family
    config.adapter.exclude = ()  # patterns of paths to leave alone
    config.adapter.ranks = ()  # (pattern, rank) pairs where the rank is not adapter.rank
    config.adapter.layout = ()  # (pattern, axes) pairs for kernels whose axes are in doubt, as in "lio"
    config.adapter.also_train = ()  # patterns of modules that train in full beside the factors, such as a new head
    config.adapter.start = ""  # an adapter's folder to start from; what also_train names starts anew

    config.train = ConfigDict()
    config.train.epochs = 5.0  # passes over the training data
    config.train.steps = 0  # updates; where above 0, it counts and epochs do not
    config.train.batch_size = 8  # examples of an update
    config.train.accumulate = 1  # an update's examples come in this many batches, to save memory
    config.train.learning_rate = 0.0  # the peak; 0: the transformation's own
    config.train.also_train_learning_rate = 0.0  # the peak for adapter.also_train; 0: that of full fine-tuning
    config.train.warmup = 500.0  # updates over which the rate rises to its peak; below 1, a share of all updates
    config.train.decay = "linear"  # then "linear" to zero, "cosine" to zero, or "constant"
    config.train.weight_decay = 0.01  # AdamW's; factors are deviations, so it pulls towards the base
    config.train.clip = 1.0  # the largest norm of the gradient; 0: any
    config.train.label_smoothing = 0.0  # the share of probability spread over the vocabulary
    config.train.beta1 = 0.9  # AdamW's
    config.train.beta2 = 0.999  # AdamW's
    config.train.eps = 1e-6  # AdamW's
    config.train.dropout = True  # whether the model's own dropout acts in training
    config.train.remat = "dots"  # computed again in the backward pass: all but products; or "none"; or "full", all
    config.train.attention = "xla"  # or "cudnn", fused: on NVIDIA GPUs, in bfloat16; it drops no attention weights
    config.train.scan_layers = False  # one compiled layer for all, so that the compiler has less to do

    config.log = ConfigDict()
    config.log.every = 50  # updates between two lines of metrics.jsonl

    config.eval = ConfigDict()
    config.eval.every = 1000  # updates between two evaluations; there is one at the start and one at the end
    config.eval.batch_size = 32  # examples of an evaluation batch
    config.eval.max_examples = 0  # judge by no more than so many of a validation split, evenly spread; 0: by all

    config.decode = ConfigDict()  # how hut_jax.evaluate and hut_jax.generate write; the LoRA paper's for E2E
    config.decode.method = "beam"  # or "greedy", or "sample"
    config.decode.max_new_tokens = 64  # of an output, its end token among them
    config.decode.min_new_tokens = 0  # before there are so many, no end token may come
    config.decode.no_repeat_ngram = 4  # no n-gram of this size comes twice in an output; 0: any may
    config.decode.beams = 10  # beam: continuations kept at each step
    config.decode.length_penalty = 0.9  # beam: the paper's, table 11; its repository's README has 0.8
    config.decode.early_stopping = "false"  # beam: transformers' False, or "true", or "never"
    config.decode.temperature = 1.0  # sample: what the logits are divided by; the seed is config.seed
    config.decode.top_k = 0  # sample: draw from so many of the likeliest; 0: from all
    config.decode.top_p = 1.0  # sample: draw from the fewest of the likeliest that have this probability
    config.decode.batch_size = 16  # prompts decoded at once

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1000  # updates between two checkpoints; there is one at the end
    config.checkpoint.keep = 2  # the newest that are kept

    config.mesh = ConfigDict()  # how many devices share out what (docs/running.md); -1: all that the others leave
    config.mesh.data = -1  # batches
    config.mesh.fsdp = 1  # batches and parameters
    config.mesh.tensor = 1  # the products of each layer

    set_transform(config, "hut")
    config.lock()
    return config


def set_transform(config: ConfigDict, name: str, **settings: Any) -> None:
    """Make `config.adapter` that of the transformation `name`: its settings and no other's.

    Raises:
        UserError: there is no such transformation, or it has no such setting.
    """
    fields = transform_fields(name, **settings)
    with config.unlocked():
        for field in [*config.adapter]:
            if field != "name" and field not in ADAPTER_FIELDS:
                del config.adapter[field]
        config.adapter.name = name
        config.adapter.update(fields)


_POSITIVE = (lambda value: value > 0, "above 0")
_AT_LEAST_1 = (lambda value: value >= 1, "at least 1")
_NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")
_SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")

_RANGES = {
    "seed": (lambda value: 0 <= value < 2**32, "at least 0 and below 2**32"),
    "data.max_length": _AT_LEAST_1,
    "data.length_multiple": _AT_LEAST_1,
    "data.slot_multiple": _AT_LEAST_1,
    "data.max_bytes": _NOT_NEGATIVE,
    "data.max_examples": _NOT_NEGATIVE,
    "data.block": _AT_LEAST_1,
    "data.holdout": (lambda value: 0 < value < 1, "between 0 and 1"),
    "train.epochs": (lambda value: 0 < value <= 1e6, "above 0 and at most a million"),
    "train.steps": (lambda value: 0 <= value < 2**31, "at least 0 and below 2**31"),
    "train.batch_size": _AT_LEAST_1,
    "train.accumulate": _AT_LEAST_1,
    "train.learning_rate": _NOT_NEGATIVE,
    "train.also_train_learning_rate": _NOT_NEGATIVE,
    "train.warmup": _NOT_NEGATIVE,
    "train.weight_decay": _NOT_NEGATIVE,
    "train.clip": _NOT_NEGATIVE,
    "train.label_smoothing": _SHARE,
    "train.beta1": _SHARE,
    "train.beta2": _SHARE,
    "train.eps": _POSITIVE,
    "log.every": _AT_LEAST_1,
    "eval.every": _AT_LEAST_1,
    "eval.batch_size": _AT_LEAST_1,
    "eval.max_examples": _NOT_NEGATIVE,
    "decode.max_new_tokens": _AT_LEAST_1,
    "decode.min_new_tokens": _NOT_NEGATIVE,
    "decode.no_repeat_ngram": _NOT_NEGATIVE,
    "decode.beams": _AT_LEAST_1,
    "decode.temperature": (lambda value: value >= COLDEST, f"at least {COLDEST:g}"),
    "decode.top_k": _NOT_NEGATIVE,
    "decode.top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "decode.batch_size": _AT_LEAST_1,
    "checkpoint.every": _AT_LEAST_1,
    "checkpoint.keep": _AT_LEAST_1,
}

_CHOICES = {
    "init": ("pretrained", "random"),
    "dtype": ("float32", "bfloat16"),
    "train.remat": tuple(REMAT),
    "train.attention": ATTENTION,
    "train.decay": ("linear", "cosine", "constant"),
    "decode.method": ("beam", "greedy", "sample"),
    "decode.early_stopping": ("false", "true", "never"),
}


def validate(config: ConfigDict) -> None:
    """Every check that needs the config alone.

    Raises:
        UserError: a field is unknown or missing, or its value is out of its range; the message names both.
    """
    given = flatten_config(config)
    known = default_config()
    set_transform(known, config.adapter.name)
    fields = flatten_config(known)
    for field in given.keys() - fields.keys():
        raise UserError(f"unknown config field config.{field}; {nearest(field, fields)}")
    for field in fields.keys() - given.keys():
        raise UserError(f"config.{field} is missing; its default is {fields[field]!r}")
    for field, choices in _CHOICES.items():
        if given[field] not in choices:
            raise UserError(f"config.{field} is {given[field]!r}; {nearest(str(given[field]), choices)}")
    for field, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{field} is {value}; it must be finite")
    for field, (fits, phrase) in _RANGES.items():
        if not fits(given[field]):
            raise UserError(f"config.{field} is {given[field]!r}; it must be {phrase}")
    if not config.model:
        raise UserError("config.model is empty; give a hub name such as gpt2-medium, or a folder")
    if config.train.batch_size % config.train.accumulate:
        raise UserError(
            f"config.train.accumulate is {config.train.accumulate}; "
            f"it must divide config.train.batch_size, {config.train.batch_size}"
        )


def resolve(config: ConfigDict) -> ConfigDict:
    """A copy in which what was left to the transformation has its value: the learning rates."""
    config = config.copy_and_resolve_references()
    own = {"learning_rate": TRANSFORMS[config.adapter.name], "also_train_learning_rate": TRANSFORMS["full"]}
    for field, transform in own.items():
        config.train[field] = config.train[field] or transform.learning_rate
    return config


def flatten_config(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The fields by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            flat.update(flatten_config(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """The config as text, to be kept with a run."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """The inverse of `to_json`.

    Raises:
        json.JSONDecodeError: the text is no JSON.
    """
    return ConfigDict(_tuples(json.loads(text)))


def _tuples(value: Any) -> Any:
    """Lists, which is what JSON makes of tuples, back to tuples."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
